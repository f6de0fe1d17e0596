"""The notebooks run from the start, and say what is stored in them."""

import base64
import io
import pathlib
import re
import sys

import pytest
from PIL import Image

nbformat = pytest.importorskip("nbformat")
NOTEBOOKS = pathlib.Path(__file__).parents[2] / "notebooks"
sys.path.insert(0, str(NOTEBOOKS))
import execute  # noqa: E402

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))

# Another processor rounds otherwise, and training carries that on.
_DECIMAL = re.compile(r"\d+\.\d+")
# The beginnings of absolute paths, and of Windows'.
_ABSOLUTE_PATH = re.compile(
    r"(?<![\w./:])/(?:home|root|tmp|usr|opt|work|Users)\b|[A-Z]:\\"
)


def texts(notebook):
    """Return for each code cell its text outputs, and the types of the others."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        outputs = ""
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                outputs += "<picture>"
            else:
                outputs += output.get("text", "") + data.get("text/plain", "")
        found.append(outputs)
    return found


def pictures(notebook):
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in (data := output.get("data", {})):
                yield Image.open(io.BytesIO(base64.b64decode(data["image/png"])))


def differs(stored, fresh):
    """Say whether texts differ in a word, a whole number, or a decimal by over 2 %."""
    if _DECIMAL.sub("#", stored) != _DECIMAL.sub("#", fresh):
        return True
    pairs = zip(_DECIMAL.findall(stored), _DECIMAL.findall(fresh), strict=True)
    return any(abs(float(a) - float(b)) > 0.03 + 0.02 * float(a) for a, b in pairs)


def test_there_are_the_four():
    assert [path.stem for path in PATHS] == [
        "01_predict",
        "02_finetune",
        "03_serve",
        "04_look_inside",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_fresh_run_says_what_is_stored(path):
    stored = nbformat.read(path, as_version=4)
    fresh = execute.execute(path)
    for number, (old, new) in enumerate(zip(texts(stored), texts(fresh), strict=True)):
        assert not differs(old, new), (
            f"Stale output of code cell {number}: stored {old!r}, now {new!r}. "
            "Store the new ones by `make notebooks`."
        )
    check_clean(fresh)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_stored_notebook_reads_well(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    check_clean(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in code]
    assert counts == list(range(1, len(code) + 1)), "executed in order, and once"
    assert path.stat().st_size < 1e6
    headings = re.findall(r"^#+ (.*)", prose(notebook), re.M)
    assert "Configuration" in headings
    assert headings[-1] == "Where to go next"
    if path.stem != "03_serve":
        assert "<picture>" in "".join(texts(notebook))
    for picture in pictures(notebook):
        assert picture.mode == "RGB", "all colours, not 256 of them"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_files_that_the_prose_names_exist(path):
    notebook = nbformat.read(path, as_version=4)
    root = NOTEBOOKS.parent
    for name in re.findall(r"`(\w+\.ipynb)`", prose(notebook)):
        assert (NOTEBOOKS / name).exists(), name
    for name in re.findall(r"\b(?:export|keras_mixer)/[\w/]+\.\w+", prose(notebook)):
        assert (root / name).exists(), name


def prose(notebook):
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    return "\n".join(cells)


def check_clean(notebook):
    for cell in notebook.cells:
        assert not _ABSOLUTE_PATH.search(cell.source), cell.source
        for output in cell.get("outputs", ()):
            assert output.get("name") != "stderr", output.text
            assert output.output_type != "error"
    for text in texts(notebook):
        assert not _ABSOLUTE_PATH.search(text), text
        assert not re.search("warning|deprecat", text, re.I), text


@pytest.mark.parametrize(
    ("fresh", "stale"),
    [
        ("3 images, 97.2% right", False),
        ("3 images, 96.0% right", False),
        ("3 images, 93.0% right", True),
        ("4 images, 97.2% right", True),
        ("3 images, 97.2% wrong", True),
        ("3 images, 97% right", True),
        ("<picture>3 images, 97.2% right", True),
    ],
)
def test_staleness_allows_for_rounding_alone(fresh, stale):
    assert differs("3 images, 97.2% right", fresh) == stale


@pytest.mark.parametrize(
    "said",
    [
        "E0000 00:01.2 3 util.cc:131] oneDNN supports DT_BFLOAT16 only on platforms "
        "with AVX-512.\n",
        "W0000 00:01.2 3 local_rendezvous.cc:412] Local rendezvous is aborting with "
        "status: CANCELLED: Loop execution was cancelled.\n"
        "\t [[{{node while/LoopCond/_20}}]]\n",
    ],
    ids=["processor", "dropped"],
)
def test_what_tensorflow_says_on_some_runs_is_left_out(tmp_path, said):
    path, other = tmp_path / "notebook.ipynb", "W0000 of something else\n"
    source = f"import sys; sys.stderr.write({said + other!r}); print('done')"
    cells = [nbformat.v4.new_code_cell(source)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    (cell,) = execute.execute(path).cells
    assert {output.name: output.text for output in cell.outputs} == {
        "stderr": other,
        "stdout": "done\n",
    }


@pytest.mark.parametrize(
    "text", ["saved in /tmp/x/model.keras", '"/home/me/a"', r"C:\Users", "(/usr/a)"]
)
def test_absolute_paths_are_seen(text):
    assert _ABSOLUTE_PATH.search(text)


def test_urls_and_relative_paths_are_no_absolute_paths():
    assert not _ABSOLUTE_PATH.search("https://arxiv.org/abs/1, runs/tmp/x, a/home")


def test_a_failing_cell_fails(tmp_path):
    from nbclient.exceptions import CellExecutionError

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    nbformat.write(notebook, tmp_path / "failing.ipynb")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute.execute(tmp_path / "failing.ipynb")


def test_each_run_starts_in_an_empty_folder(tmp_path):
    code = "import os\nprint(os.listdir())"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbformat.write(notebook, tmp_path / "where.ipynb")
    assert texts(execute.execute(tmp_path / "where.ipynb")) == ["[]\n"]

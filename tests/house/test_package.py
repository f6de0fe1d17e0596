"""The house's rules: who imports whom, what an import costs and loads."""

import ast
import importlib.metadata
import os
import pathlib
import re
import runpy
import subprocess
import sys

import pytest
import setuptools
from program import PROGRAM

import keras_mixer

PACKAGE = pathlib.Path(keras_mixer.__file__).parent
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))

# Which rooms each room may import. Everything runs downwards.
MAY_IMPORT = {
    "catalog": set(),
    "images": {"catalog"},
    "weights": {"catalog"},
    "data": {"catalog", "images", "weights"},
    "models": {"catalog", "images", "weights"},
    "training": {"catalog", "images", "weights", "data", "models"},
    "serving": {"catalog", "images", "weights", "data", "models"},
    "visualize": {"catalog", "images", "weights", "data", "models"},
    "cli": {*ROOMS} - {"cli"},
}


# Why a file has more than 300 lines.
LONG = {
    "catalog/entries.py": "the table of what is published",
    "catalog/recipes.py": "a table: every setting, explained, and every recipe",
    "images/headers.py": "a reader of each format, and what they share",
    "images/preprocess.py": "public functions with their documentation",
    "models/layers.py": "read beside the paper, in one go",
    "models/mixer.py": "the variants, their one signature, and its graph",
    "training/fit.py": "one run, from its checkpoint to its last step",
    "training/optimizers.py": "the steps of three optimizers",
    "weights/formats/pdparams.py": "the machine that reads pickles, and runs none",
}


def imports_of(path):
    """Rooms of the package that a file imports, at any depth, with their files."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "keras_mixer":
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            package, _, rest = node.module.partition(".")
            if package == "keras_mixer":
                yield rest.split(".")[0], rest.partition(".")[2]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                package, _, rest = alias.name.partition(".")
                if package == "keras_mixer" and rest:
                    yield rest.split(".")[0], rest.partition(".")[2]


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_downwards(room):
    for path in (PACKAGE / room).rglob("*.py"):
        others = {r for r, _ in imports_of(path) if r in ROOMS} - {room}
        assert others <= MAY_IMPORT[room], path


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_rooms_and_not_what_is_in_their_files(room):
    for path in (PACKAGE / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.module:
                continue
            package, _, rest = node.module.partition(".")
            if package == "keras_mixer" and rest.split(".")[0] not in ("", room):
                folder = PACKAGE.joinpath(*rest.split("."))
                assert folder.is_dir(), f"{path}: from {node.module} import ..."
                private = [a.name for a in node.names if a.name.startswith("_")]
                assert not private, path


def test_the_house_is_small_enough_to_know():
    shown = [path for path in PACKAGE.iterdir() if path.name != "__pycache__"]
    assert len(shown) <= 12
    lengths = {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text("utf-8").splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    assert {name for name, length in lengths.items() if length > 300} <= LONG.keys()


def test_keras_cv_augments_and_nothing_else():
    users = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if "keras_cv" in path.read_text(encoding="utf-8")
    ]
    assert users == ["data/augmentation.py"]


def run(code, **env):
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **env},
    )
    return result.stdout.split()


def test_import_loads_none_of_the_extras():
    code = (
        "import keras, sys; before = set(sys.modules); import keras_mixer; "
        "print(*[m for m in ('tensorflow_datasets', 'keras_cv', 'matplotlib', 'ray', "
        "'sklearn', 'PIL', 'starlette', 'requests') if m in set(sys.modules) - before])"
    )
    assert run(code) == []


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_program_starts_without_what_it_does_not_need_and_can_use_it(backend):
    code = (
        "import sys; sys.argv = ['keras-mixer', 'predict']; import keras_mixer, keras; "
        "print(*[m for m in ('sklearn', 'pandas', 'matplotlib', 'IPython', 'jax') "
        "if m in sys.modules]); "
        "print(float(keras.ops.sum(keras.ops.ones(3))) == 3); "
        "import pandas, matplotlib; "
        "from sklearn import datasets; print(datasets.load_digits().target[7])"
    )
    loaded = ["jax"] if backend == "jax" else []
    assert run(code, KERAS_BACKEND=backend) == [*loaded, "True", "7"]


def test_import_loads_no_tensorflow_on_another_backend():
    code = "import keras_mixer, sys; print('tensorflow' in sys.modules)"
    assert run(code, KERAS_BACKEND="jax") == ["False"]


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_import_and_first_operation_print_no_start_up_notes(backend, monkeypatch):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    code = (
        "import os, keras_mixer, tensorflow as tf; tf.ones(2) + 1; "
        "keras_mixer.MlpMixerNano4(classes=2); os.write(2, b'mine')"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": backend},
    )
    assert result.stderr == "mine"


STANDS_FOR_TENSORFLOW = """
import os
os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are\\n")
os.write(2, b"I0000 00:00:17.2 1 port.cc:153] oneDNN custom operations are on.\\n")
os.write(2, b"E0000 disk full\\n")
raise ImportError("broken")
"""


@pytest.mark.parametrize("without", ["", "2>&-"])
def test_nothing_but_start_up_notes_is_lost(tmp_path, without):
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text(STANDS_FOR_TENSORFLOW)
    code = f"""
import sys
import keras_mixer
sys.path.insert(0, {str(tmp_path)!r})
try:
    import tensorflow
except (ImportError, OSError) as error:
    print(type(error).__name__)
"""
    result = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {without}', sys.executable, code],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "jax"},
    )
    # Without standard error the stand-in cannot write, and that is not ours to hide.
    kind, words = ("OSError", "") if without else ("ImportError", "E0000 disk full\n")
    assert (result.stdout, result.stderr) == (kind + "\n", words)


def test_an_unknown_backend_is_answered_in_a_sentence():
    for program in ([PROGRAM], [sys.executable, "-m", "keras_mixer"]):
        result = subprocess.run(
            [*program, "evaluate"],
            capture_output=True,
            text=True,
            env={**os.environ, "KERAS_BACKEND": "cuda"},
        )
        assert result.returncode == 1
        assert result.stderr.startswith(
            "keras-mixer: Keras' backend must be one of tensorflow, jax, torch, and be "
            "installed. Received: KERAS_BACKEND=cuda"
        )
        assert result.stderr.count("\n") == 1


def test_import_costs_at_most_150_ms_beyond_keras():
    code = (
        "import keras, time; start = time.process_time(); import keras_mixer; "
        "print(time.process_time() - start)"
    )
    assert any(float(run(code)[0]) < 0.15 for _ in range(3))


def test_public_names_exist():
    for name in keras_mixer.__all__:
        assert getattr(keras_mixer, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'MlpMixerB15'"):
        keras_mixer.MlpMixerB15  # noqa: B018


def plain(distribution):
    return distribution.lower().replace("_", "-")


def test_what_the_package_imports_is_in_its_extras(monkeypatch):
    packaged = {}
    monkeypatch.setattr(setuptools, "setup", packaged.update)
    runpy.run_path(str(PACKAGE.parent / "setup.py"))
    extras = packaged["extras_require"]
    asked_for = list(packaged["install_requires"])
    for extra in ("train", "serve", "runtimes", "cluster", "hub", "mlflow", "wandb"):
        asked_for += extras[extra]
    asked_for = {plain(re.match(r"[\w-]+", wanted)[0]) for wanted in asked_for}
    dists = importlib.metadata.packages_distributions()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            for module in {name.split(".")[0] for name in names}:
                if module in sys.stdlib_module_names or module == "keras_mixer":
                    continue
                # A tracker need not be installed, and has the name of its module.
                providers = {plain(d) for d in dists.get(module, [])} | {module}
                assert providers & asked_for, (path, module)
    # TensorFlow Datasets imports it late, and asks for it nowhere.
    assert "importlib-resources" in asked_for

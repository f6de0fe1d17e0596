"""Execute notebooks afresh, and store their outputs in place: `make notebooks`.

    python notebooks/execute.py [notebooks/01_predict.ipynb ...]

Each runs in an empty folder: it uses nothing of an earlier run, and leaves nothing.
"""

import base64
import io
import os
import pathlib
import re
import sys
import tempfile

import nbclient
import nbformat
from PIL import Image

NOTEBOOKS = pathlib.Path(__file__).resolve().parent
# Far more than any cell takes on an idle machine.
_CELL_TIMEOUT_SECONDS = 600
# What TensorFlow logs on some runs alone: of a processor that has no AVX512; and of an
# image that was being resampled when nobody wanted more of its data set.
_OF_THIS_RUN = re.compile(
    r"^E\d+ .*oneDNN supports DT_\w+ only on .*\n"
    r"|^W\d+ .*aborting with status: CANCELLED: Loop execution .*\n(?:\t .*\n)?",
    re.M,
)


def execute(path):
    """Execute a notebook from the start.

    Args:
        path: `pathlib.Path` of the notebook, which is not changed.

    Returns:
        The notebook with its new outputs, an `nbformat.NotebookNode`.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    # The settings of a test run must not change what a reader gets.
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("TF_CPP_", "PYTEST_"))
    }
    with tempfile.TemporaryDirectory() as folder:
        client = nbclient.NotebookClient(
            notebook,
            timeout=_CELL_TIMEOUT_SECONDS,
            kernel_name="python3",
            resources={"metadata": {"path": folder}},
            record_timing=False,
            coalesce_streams=True,  # else a line can be cut in two
        )
        client.execute(env=environment)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [kept for kept in map(_of_any_run, cell.outputs) if kept]
    # Which Python it was would differ from machine to machine.
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def _of_any_run(output):
    """Return an output as every run would give it, or None if nothing is left."""
    if "image/png" in output.get("data", ()):
        output.data["image/png"] = _smaller(output.data["image/png"])
    if "text" in output:
        output.text = _OF_THIS_RUN.sub("", output.text)
        return output if output.text else None
    return output


def _smaller(picture):
    """Compress a picture well, without its empty alpha channel: no pixel changes."""
    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


def main(paths):
    for path in map(pathlib.Path, paths):
        print(path.name, flush=True)
        nbformat.write(execute(path), path)


if __name__ == "__main__":
    main(sys.argv[1:] or sorted(NOTEBOOKS.glob("*.ipynb")))

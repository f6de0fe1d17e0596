"""The house's rules: who imports whom, what an import costs and loads."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

import keras_mixer

PACKAGE = pathlib.Path(keras_mixer.__file__).parent

# What each module may import of the package. Everything runs downwards.
FORMATS = {"npz", "pdparams", "pickle_machine", "pickled_arrays", "safetensors_file"}
NOTHING = {
    *("augmentation", "catalog", "checkpointing", "cpu_ops", "distribution"),
    "download",
    *("image_files", "image_graph", "model_card", "names", "optimization"),
    *("publishing", "resolution", "served_layers", "splits", "verification"),
    *("warm_up", "watching", "weight_images", "weights_h5"),
}
MAY_IMPORT = {
    **dict.fromkeys(NOTHING, frozenset()),
    # Weights files and models.
    "layers": {"cpu_ops"},
    **dict.fromkeys(FORMATS, FORMATS),
    "checkpoints": FORMATS,
    "recognition": {"catalog", "checkpoints"},
    "porting": {
        *("catalog", "checkpoints", "names", "recognition", "resolution"),
        "weights_h5",
    },
    "network": {"layers"},
    "weights": {"catalog", "download", "layers", "names", "network", "porting"},
    "models": {"catalog", "layers", "network", "porting", "resolution", "weights"},
    # Images and data.
    "preprocessing": {"catalog", "image_files"},
    "folders": {"splits"},
    "tfds_sources": {"splits"},
    "sources": {"folders", "splits", "tfds_sources"},
    "data": {"augmentation", "sources", "splits"},
    # Training.
    "evaluation": {"catalog", "data", "splits"},
    "recipes": {"data", "distribution", "models"},
    "trainer": {"distribution", "models", "optimization"},
    "runs": {"checkpointing", "data", "trainer", "watching"},
    "training": {
        *("checkpointing", "data", "distribution", "evaluation"),
        *("recipes", "runs", "splits", "trainer", "watching"),
    },
    "visualize": {"checkpointing", "evaluation", "weight_images"},
    # Serving.
    "signatures": {"catalog", "image_graph", "preprocessing"},
    "served_model": {"layers", "served_layers"},
    "serving": {
        *("catalog", "model_card", "preprocessing", "publishing", "served_model"),
        *("signatures", "verification", "warm_up"),
    },
}


def imports_of(path):
    """Modules of the package that a file imports, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "") == "keras_mixer":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").startswith("keras_mixer."):
                found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {
                alias.name.split(".")[1]
                for alias in node.names
                if alias.name.startswith("keras_mixer.")
            }
    return found & {path.stem for path in PACKAGE.iterdir()}


@pytest.mark.parametrize(
    "path",
    sorted(p for p in PACKAGE.glob("*.py") if p.stem != "__init__"),
    ids=lambda path: path.stem,
)
def test_imports_run_downwards(path):
    assert path.stem in MAY_IMPORT, "a new module needs a line in MAY_IMPORT"
    assert imports_of(path) <= MAY_IMPORT[path.stem]


def test_only_augmentation_knows_keras_cv():
    users = [p.name for p in PACKAGE.rglob("*.py") if "keras_cv" in p.read_text()]
    assert set(users) <= {"augmentation.py"}


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
        "print(*[m for m in ('tensorflow_datasets', 'keras_cv', 'matplotlib', "
        "'sklearn', 'PIL', 'starlette', 'requests') if m in set(sys.modules) - before])"
    )
    assert run(code) == []


def test_import_loads_no_tensorflow_on_another_backend():
    code = "import keras_mixer, sys; print('tensorflow' in sys.modules)"
    assert run(code, KERAS_BACKEND="jax") == ["False"]


def test_import_costs_at_most_150_ms_beyond_keras():
    code = (
        "import keras, time; start = time.perf_counter(); import keras_mixer; "
        "print(time.perf_counter() - start)"
    )
    assert min(float(run(code)[0]) for _ in range(3)) < 0.15


def test_public_names_exist():
    for name in keras_mixer.__all__:
        assert getattr(keras_mixer, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'MlpMixerB15'"):
        keras_mixer.MlpMixerB15  # noqa: B018

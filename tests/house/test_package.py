"""The house's rules: who imports whom, what an import costs and loads."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

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

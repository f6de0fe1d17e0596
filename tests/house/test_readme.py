"""The README: its table is the catalogue's, its Python runs, its commands exist."""

import pathlib
import re

import pytest
from tiny import PARAMETERS

import keras_mixer
from keras_mixer import catalog, cli, models

README = (pathlib.Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def parameters(model, classes):
    """Parameters of a variant with a head of so many classes."""
    head = models.VARIANTS[model].hidden_dim + 1
    return PARAMETERS[model] + head * (classes - 1000)


def table_rows():
    rows = []
    for model in PARAMETERS:
        entries = [e for e in catalog.ENTRIES.values() if e.model == model]
        for e in entries:
            top1 = f"{e.top1:.2f}" if e.top1 else "-"
            count = parameters(model, e.classes)
            rows.append(
                f"| `{model}` | {count / 1e6:.1f} M | `{e.tag}` | {e.classes:,} "
                f"| {top1} | {e.provenance} |"
            )
        if not entries:
            count = parameters(model, 1000)
            rows.append(f"| `{model}` | {count / 1e6:.1f} M | - | - | - | - |")
    return rows


def test_model_table_is_the_catalogues():
    start, end = README.index("<!-- table:"), README.index("<!-- end of table -->")
    assert README[start:end].splitlines()[1:] == table_rows()


def test_parameters_of_the_table_are_the_models():
    model = keras_mixer.MlpMixerNano4(weights="cifar10")
    assert model.count_params() == parameters("MlpMixerNano4", 10) == 1_132_170


@pytest.mark.parametrize(
    "verb", sorted(set(re.findall(r"^keras-mixer (\w+)", README, re.M)))
)
def test_commands_of_the_readme_exist(verb):
    assert verb in cli.VERBS
    module = pathlib.Path(cli.__file__).with_name(f"{verb}.py")
    source = module.read_text(encoding="utf-8")
    assert source.startswith(('"""', 'r"""'))


def test_files_of_the_readme_exist():
    root = pathlib.Path(__file__).parents[2]
    places = r"\b(?:export|keras_mixer|tests)/[\w/]+\.(?:py|md|png)"
    for name in re.findall(places, README):
        assert (root / name).exists(), name

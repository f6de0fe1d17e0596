"""The README: its table is the catalogue's, its Python runs, its commands exist."""

import pathlib
import re

import pytest
from tiny import PARAMETERS

from keras_mixer import catalog, cli

README = (pathlib.Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def table_rows():
    rows = []
    for model, count in PARAMETERS.items():
        entries = [e for e in catalog.ENTRIES.values() if e.model == model]
        for e in entries:
            top1 = f"{e.top1:.2f}" if e.top1 else "-"
            rows.append(
                f"| `{model}` | {count / 1e6:.1f} M | `{e.tag}` | {e.classes:,} "
                f"| {top1} | {e.provenance} |"
            )
        if not entries:
            rows.append(f"| `{model}` | {count / 1e6:.1f} M | - | - | - | - |")
    return rows


def test_model_table_is_the_catalogues():
    start, end = README.index("<!-- table:"), README.index("<!-- end of table -->")
    assert README[start:end].splitlines()[1:] == table_rows()


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
    for name in re.findall(r"\b(?:export|keras_mixer|tests)/[\w/]+\.(?:py|md)", README):
        assert (root / name).exists(), name

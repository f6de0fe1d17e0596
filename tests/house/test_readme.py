"""README and docs/: their tables are the catalogue's; files and links exist."""

import pathlib
import re

import pytest
from tiny import PARAMETERS

import keras_mixer
from keras_mixer import catalog, models, visualize

ROOT = pathlib.Path(__file__).parents[2]
README = ROOT / "README.md"
MODELS = ROOT / "docs" / "models.md"
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [README, *sorted((ROOT / "docs").glob("*.md"))]
}


def parameters(model, classes):
    """Parameters of a variant with a head of so many classes."""
    head = models.VARIANTS[model].hidden_dim + 1
    return PARAMETERS[model] + head * (classes - 1000)


def weights_rows():
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


def model_rows():
    rows = []
    for model in PARAMETERS:
        tags = [f"`{e.tag}`" for e in catalog.ENTRIES.values() if e.model == model]
        count = parameters(model, 10 if model == "MlpMixerNano4" else 1000)
        patch = models.VARIANTS[model].patch_size
        rows.append(
            f"| `{model}` | {count / 1e6:.1f} M | {patch} | {', '.join(tags) or '-'} |"
        )
    return rows


@pytest.mark.parametrize("path, rows", [(MODELS, weights_rows), (README, model_rows)])
def test_tables_are_the_catalogues(path, rows):
    text = path.read_text(encoding="utf-8")
    start, end = text.index("<!-- table:"), text.index("<!-- end of table -->")
    _, blank, header, rule, *found = text[start:end].rstrip().splitlines()
    # A comment between them would end the table.
    assert (blank, header[:8], rule[:4]) == ("", "| model ", "|---")
    assert found == rows()


def test_parameters_of_the_table_are_the_models():
    model = keras_mixer.MlpMixerNano4(weights="cifar10")
    assert model.count_params() == parameters("MlpMixerNano4", 10) == 1_132_170


def test_the_readme_is_read_in_a_minute():
    assert len(PAGES["README.md"].splitlines()) < 150


@pytest.mark.parametrize("page", PAGES)
def test_files_and_links_exist(page):
    text = PAGES[page]
    places = r"\b(?:export|keras_mixer|tests|docs)/[\w/]+\.(?:py|md|png|svg)"
    for name in re.findall(places, text):
        assert (ROOT / name).exists(), name
    for link in re.findall(r"\]\(([^)\s]+)\)|(?:src)=\"([^\"]+)\"", text):
        path, _, heading = "".join(link).partition("#")
        if path.startswith("http"):
            continue
        target = ROOT / pathlib.PurePosixPath(page).parent / path
        assert target.exists(), path
        if heading:
            titles = re.findall(r"^#+ (.*)$", target.read_text("utf-8"), re.M)
            assert heading in {t.lower().replace(" ", "-") for t in titles}, heading


def test_the_reference_has_every_public_name():
    names = re.findall(r"^::: keras_mixer\.(.*)$", PAGES["docs/api.md"], re.M)
    drawing = [f"visualize.{name}" for name in visualize.__all__]
    assert sorted(names) == sorted([*keras_mixer.__all__, *drawing])

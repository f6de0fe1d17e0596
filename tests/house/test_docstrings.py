"""The public API is described: every argument, what comes back, what is refused."""

import ast
import dataclasses
import inspect
import pathlib
import re
import textwrap

import keras
import pytest
import yaml

import keras_mixer
from keras_mixer import visualize
from keras_mixer.catalog import ImageTransform, WeightsEntry
from keras_mixer.data import Augmentation
from keras_mixer.training import Evaluation, Example, Training, preview

ROOT_FILES = ["setup.py", "CITATION.cff", "CHANGELOG.md"]


PUBLIC = {
    **{name: getattr(keras_mixer, name) for name in keras_mixer.__all__},
    **{f"visualize.{name}": getattr(visualize, name) for name in visualize.__all__},
    # What public functions take and return.
    **{
        value.__name__: value
        for value in [
            *(Augmentation, Evaluation, Example, ImageTransform, Training),
            *(WeightsEntry, preview),
        ]
    },
}
VARIANTS = [name for name in PUBLIC if re.fullmatch(r"MlpMixer[A-Z]\w*\d", name)]
CLASSES = {name: value for name, value in PUBLIC.items() if inspect.isclass(value)}
FUNCTIONS = {
    name: value
    for name, value in PUBLIC.items()
    if name not in CLASSES and name not in VARIANTS
}
LAYERS = {n: v for n, v in CLASSES.items() if issubclass(v, keras.layers.Layer)}
DATACLASSES = {n: v for n, v in CLASSES.items() if dataclasses.is_dataclass(v)}


def each(things):
    return pytest.mark.parametrize("name", sorted(things))


def section(text, heading):
    """Return the body of a section of a docstring, or None where there is none."""
    found = re.search(
        rf"^{heading}:\n((?:(?:  .*)?\n?)*)", inspect.cleandoc(text), re.M
    )
    return found and textwrap.dedent(found[1])


def described(text, heading):
    """Return the names that a section describes, each with its description."""
    body = section(text, heading) or ""
    entries = re.split(r"^(?=[\w*`])", body, flags=re.M)
    parts = [entry.partition(":") for entry in entries if entry.strip()]
    return {name.strip("*` "): " ".join(says.split()) for name, _, says in parts}


def source_of(function):
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


def test_there_is_something_to_walk():
    assert len(VARIANTS) == 9
    assert set(LAYERS) == {"TokenMixing", "ChannelMixing", "StochasticDepth"}
    assert {"MlpMixer", "train", "visualize.plot_stem"} <= set(FUNCTIONS)
    assert {"TrainConfig", "WeightsEntry"} <= set(DATACLASSES)


@each(PUBLIC)
def test_first_line_is_a_sentence(name):
    first = inspect.cleandoc(PUBLIC[name].__doc__).split("\n\n")[0]
    assert re.fullmatch(r"[A-Z].*[.:].*", first, re.S), first
    assert len(first) > 20


@each([*FUNCTIONS, *LAYERS])
def test_every_argument_is_described(name):
    thing = PUBLIC[name]
    target = thing.__init__ if inspect.isclass(thing) else thing
    wanted = [p for p in inspect.signature(target).parameters if p != "self"]
    # A layer may say whose arguments it has.
    named = [
        base
        for base in getattr(thing, "__mro__", ())
        if f"Arguments and errors are those of `{base.__name__}`" in thing.__doc__
    ]
    found = described((named or [thing])[0].__doc__, "Args")
    assert list(found) == wanted
    for argument, text in found.items():
        assert len(text) > 5, f"{argument} is not described"


@each(DATACLASSES)
def test_every_field_is_described(name):
    attributes = described(DATACLASSES[name].__doc__, "Attributes")
    fields = dataclasses.fields(DATACLASSES[name])
    for field in fields:
        text = attributes.get(field.name) or field.metadata.get("help", "")
        assert len(text) > 3, f"{field.name} is not described"
    assert set(attributes) <= {field.name for field in fields}


@each(FUNCTIONS)
def test_what_comes_back_is_described(name):
    function = inspect.unwrap(FUNCTIONS[name])
    returns = any(
        isinstance(node, ast.Return) and node.value is not None
        for node in ast.walk(source_of(function))
    )
    assert bool(section(function.__doc__, "Returns")) == returns


@each([*FUNCTIONS, *LAYERS])
def test_errors_are_described_where_there_are_some(name):
    thing = inspect.unwrap(PUBLIC[name])
    raises = any(isinstance(node, ast.Raise) for node in ast.walk(source_of(thing)))
    if raises:
        assert "ValueError" in (section(thing.__doc__, "Raises") or "")


@each(LAYERS)
def test_layers_give_their_shapes(name):
    assert re.search(r"Input.* shape: `\(batch, \w+, \w+\)`", LAYERS[name].__doc__)


@each(VARIANTS)
def test_variants_say_where_their_arguments_are_described(name):
    variant = PUBLIC[name]
    assert "`keras_mixer.MlpMixer`" in variant.__doc__
    described_there = described(keras_mixer.MlpMixer.__doc__, "Args")
    assert set(inspect.signature(variant).parameters) <= set(described_there)


@each(FUNCTIONS)
def test_functions_have_types(name):
    signature = inspect.signature(FUNCTIONS[name])
    untyped = [
        p.name for p in signature.parameters.values() if p.annotation is inspect._empty
    ]
    assert not untyped
    assert signature.return_annotation is not inspect._empty


@each(LAYERS)
def test_layers_have_types(name):
    parameters = inspect.signature(LAYERS[name].__init__).parameters
    for parameter in list(parameters.values())[1:]:
        assert parameter.annotation is not inspect._empty, parameter.name


def test_the_package_says_that_it_is_typed():
    package = pathlib.Path(keras_mixer.__file__).parent
    assert (package / "py.typed").exists()
    setup = package.parent / "setup.py"
    if setup.exists():
        assert '"py.typed"' in setup.read_text(encoding="utf-8")


def test_the_citation_and_the_changelog_are_of_this_version():
    root = pathlib.Path(__file__).parents[2]
    read = {name: (root / name).read_text(encoding="utf-8") for name in ROOT_FILES}
    version = re.search(r'version="(.*?)"', read["setup.py"])[1]
    citation = yaml.safe_load(read["CITATION.cff"])
    assert citation["version"] == version
    assert citation["authors"] == [{"name": "The keras_mixer authors"}]
    assert citation["references"][0]["url"].endswith("2105.01601")
    assert re.search(r"^## (\S+?),", read["CHANGELOG.md"], re.M)[1] == version


def test_files_that_the_contributing_page_names_exist():
    root = pathlib.Path(__file__).parents[2]
    page = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    names = re.findall(r"`((?:keras_mixer|tests)/[\w/]+\.py)`", page)
    assert len(names) > 5
    for name in names:
        assert (root / name).exists(), name
    # "`file.py`: `function`, `Class`" names what is in the file.
    for name, listed in re.findall(r"`(\S+\.py)`:\s+((?:`\w+`(?:,\s+)?)+)", page):
        source = (root / name).read_text(encoding="utf-8")
        for thing in re.findall(r"\w+", listed):
            assert re.search(rf"^(?:def|class) {thing}\b", source, re.M), (name, thing)
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([\w-]+)`", page):
        assert f"\n{target}:" in makefile


def test_a_gap_is_found():
    text = """Do something.

    Args:
        first: The first,
            over two lines: really.
        **kwargs: For somebody else.

    Returns:
        Something.
    """
    assert described(text, "Args") == {
        "first": "The first, over two lines: really.",
        "kwargs": "For somebody else.",
    }
    assert section(text, "Returns").strip() == "Something."
    assert section(text, "Raises") is None

"""What imports go without, and that it is there again afterwards."""

import gc
import sys

import pytest

from keras_mixer.catalog import is_our_program, quick_imports


@pytest.fixture(autouse=True)
def collector():
    """Put back whether garbage is collected, whatever a test leaves."""
    before = gc.isenabled()
    yield
    (gc.enable if before else gc.disable)()


@pytest.fixture
def program(monkeypatch):
    """Run as a program of another name, and without one of Python's modules."""
    monkeypatch.delitem(sys.modules, "this", raising=False)
    return lambda name: monkeypatch.setattr(sys, "argv", [f"/usr/bin/{name}"])


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_waits_and_is_collected_as_before(enabled):
    (gc.enable if enabled else gc.disable)()
    with pytest.raises(KeyError), quick_imports():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled() == enabled


def test_our_programs_alone_do_not_find_what_they_do_not_need(program, capsys):
    program("keras-mixer")
    with pytest.raises(ImportError), quick_imports("this", "json"):
        import json  # it was there before

        assert json.loads("1") == 1
        import this
    assert "this" not in sys.modules
    program("notebook.py")
    with quick_imports("this"):
        import this  # noqa: F401
    assert "Beautiful is better than ugly." in capsys.readouterr().out


@pytest.mark.parametrize(
    "program, words, ours",
    [
        ("/usr/bin/keras-mixer", ["python", "/usr/bin/keras-mixer"], True),
        ("-m", ["python", "-m", "keras_mixer"], True),  # as it begins
        ("/site/keras_mixer/__main__.py", ["python", "-m", "keras_mixer"], True),
        ("-m", ["python", "-m", "pytest"], False),
        ("/site/pytest/__main__.py", ["python", "-m", "pytest", "keras_mixer"], False),
        ("notebook.py", ["python", "notebook.py"], False),
    ],
)
def test_our_program_is_told_from_others(program, words, ours, monkeypatch):
    monkeypatch.setattr(sys, "argv", [program])
    monkeypatch.setattr(sys, "orig_argv", words)
    assert is_our_program() == ours

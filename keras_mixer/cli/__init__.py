"""The `keras-mixer` program: one absl program a verb."""

import contextlib
import gc
import importlib
import os
import pathlib
import sys

from absl import app, flags, logging

import keras_mixer
from keras_mixer.catalog import is_our_program, quick_imports, settings_in_use
from keras_mixer.cli import _help

# A verb is a file beside this one: `main`, flags, what its ARGUMENTS are called, and a
# docstring whose first line says what it does.
VERBS = {
    path.stem: path.read_text(encoding="utf-8").split('"""')[1].splitlines()[0]
    for path in sorted(pathlib.Path(__file__).parent.glob("[a-z]*.py"))
}
_LISTED = 10  # lines of a list in an error


def main():
    """Run the verb named by the first argument."""
    try:
        try:
            _main(sys.argv[1:])
        finally:
            print(end="", flush=True)
    except OSError as error:
        # Of standard output. Python would write what is left of it as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            # Who read it is gone, as `head` is once it has its lines.
            sys.exit(141)  # what a shell says of a program that SIGPIPE ended
        if isinstance(error.__context__, SystemExit):
            sys.exit(1)  # the verb has told it
        _fail(error)


def _main(arguments):
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help.of_program(VERBS))
        sys.exit(0 if arguments else 1)
    if arguments[0] == "--version":
        print("keras-mixer", keras_mixer.__version__)
        return
    verb = arguments[0]
    if verb not in VERBS:
        _fail(f"The verb must be one of {', '.join(VERBS)}. Received: {verb!r}.")
    try:
        with lasting_imports():
            program = importlib.import_module(f"keras_mixer.cli.{verb}")
    except (ValueError, ImportError) as error:
        _fail(error)
    if {"-h", "--help"} & set(arguments[1:]):
        print(_help.of_verb(verb, program))
        return

    def run(argv):
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)
        logging.info(settings_in_use())
        try:
            status = program.main(argv)
            print(end="", flush=True)
            return status
        except BrokenPipeError:
            raise  # to `main`
        except (ValueError, OSError, ImportError) as error:
            _fail(error)
        except KeyboardInterrupt:
            sys.exit(130)

    def parse(argv):
        try:
            return flags.FLAGS([_underscored(argument) for argument in argv])
        except flags.Error as error:
            _fail(error)

    app.run(run, argv=[f"keras-mixer {verb}", *arguments[1:]], flags_parser=parse)


@contextlib.contextmanager
def lasting_imports():
    """Import in the block, quickly, what stays to the end of the process.

    Then it needs no search for garbage either, later on and at the end.
    """
    with quick_imports():
        yield
    if is_our_program():
        gc.freeze()


def _underscored(argument):
    """Take `--top-k=3` for `--top_k=3`, and `--no-json` for `--nojson`."""
    if not argument.startswith("--"):
        return argument
    flag, *value = argument.split("=", 1)
    name = flag[2:].replace("-", "_")
    if name not in flags.FLAGS and name.startswith("no_"):
        name = "no" + name[3:]
    return "=".join(["--" + name, *value])


def image_files(arguments, suffixes):
    """List files and, in the place of a folder, the files in it with one of `suffixes`.

    Args:
        arguments: Names of files and folders.
        suffixes: In lower case, as `".png"`.

    Returns:
        A list of names; what is in a folder is sorted, with what its folders hold.

    Raises:
        ValueError: If a folder holds no such file.
    """
    names = []
    for argument in arguments:
        path = pathlib.Path(argument)
        if not path.is_dir():
            names.append(argument)
            continue
        found = [p for p in path.rglob("*") if p.suffix.lower() in suffixes]
        if not found:
            raise ValueError(
                f"A folder must hold images, which end in {', '.join(suffixes)}. "
                f"Received: {argument}."
            )
        names += map(str, sorted(found))
    return names


def as_json(name, answer):
    """What `--json` prints of an image: its name, and its `Answer` as a dict."""
    if answer.error is not None:
        return {"image": name, "error": answer.error}
    return {
        "image": name,
        "predictions": [
            {"class": class_name, "label": label, "score": round(score, 6)}
            for class_name, label, score in answer.guesses
        ],
    }


def one_line(error):
    """An error's words in one line, whatever lines it came in."""
    return " ".join(str(error).split())


def _fail(error):
    words, *listed = str(error).split("\n  ")
    print("keras-mixer:", one_line(words), file=sys.stderr)
    for item in listed[:_LISTED]:
        print(" ", one_line(item), file=sys.stderr)
    if len(listed) > _LISTED:
        print(f"  and {len(listed) - _LISTED} more", file=sys.stderr)
    sys.exit(1)

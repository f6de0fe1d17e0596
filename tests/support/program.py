"""The `keras-mixer` program: as a process, and in this one, which takes no start-up."""

import contextlib
import io
import os
import pathlib
import subprocess
import sys
from unittest import mock

from absl import flags, logging

from keras_mixer import cli

PROGRAM = pathlib.Path(sys.executable).with_name("keras-mixer")


def keras_mixer_program(*arguments):
    """Run the program as a user does."""
    return subprocess.run(
        [PROGRAM, *map(str, arguments)], capture_output=True, text=True
    )


def keras_mixer_main(*arguments):
    """Run the program in this process, where its being one is not the point."""
    _forget_verbs()
    before = sys.argv, logging.get_verbosity()
    sys.argv = [str(PROGRAM), *map(str, arguments)]
    code, out, err = 0, io.StringIO(), io.StringIO()
    try:
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.dict(os.environ),  # `serve` sets variables
            mock.patch("gc.freeze"),  # this process goes on
        ):
            cli.main()
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv = before[0]
        logging.set_verbosity(before[1])
        _forget_verbs()
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def _forget_verbs():
    """Undo the imports of verbs: each defines its flags anew, and some the same."""
    for module in [name for name in sys.modules if name.startswith("keras_mixer.cli.")]:
        for flag in flags.FLAGS.get_flags_for_module(module):
            delattr(flags.FLAGS, flag.name)
        del sys.modules[module]

"""The `keras-mixer` program, as a process."""

import pathlib
import subprocess
import sys

PROGRAM = pathlib.Path(sys.executable).with_name("keras-mixer")


def keras_mixer_program(*arguments):
    return subprocess.run(
        [PROGRAM, *map(str, arguments)], capture_output=True, text=True
    )

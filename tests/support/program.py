"""The `keras-mixer` program, as a process."""

import subprocess


def keras_mixer_program(*arguments):
    return subprocess.run(
        [PROGRAM, *map(str, arguments)], capture_output=True, text=True
    )

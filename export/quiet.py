"""Imports without TensorFlow's start-up notes."""

import contextlib
import os


@contextlib.contextmanager
def quiet_import():
    """Send standard error nowhere in the block.

    A program that says in one line what is wrong cannot have a page above it, and
    TF_CPP_MIN_LOG_LEVEL does not reach what TensorFlow prints while it is imported.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    saved = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)

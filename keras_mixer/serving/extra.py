"""The extras `serve` and `runtimes`: what this room needs besides the package."""

import contextlib


@contextlib.contextmanager
def needs_extra(what, extra):
    """Say which extra to install, where an import of the block fails.

    Args:
        what: What needs it, as the subject of a sentence in the plural.
        extra: Its name.

    Raises:
        ImportError: If a module is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"{what} need the extra `{extra}`: `pip install keras-mixer[{extra}]`. "
            f"Received: {error}."
        ) from error


def needs_serve_extra():
    """`needs_extra` for the server and its clients."""
    return needs_extra("Serving and asking a server", "serve")

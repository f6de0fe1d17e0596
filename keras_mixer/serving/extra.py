"""The extra `serve`: what the server and the client need besides the package."""

import contextlib


@contextlib.contextmanager
def needs_serve_extra():
    """Say which extra to install, where an import of the block fails.

    Raises:
        ImportError: If a module is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(
            "Serving and asking a server need the extra `serve`: "
            f"`pip install keras-mixer[serve]`. Received: {error}."
        ) from error

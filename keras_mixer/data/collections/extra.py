"""The extra `bulk`: what reads Parquet and URLs, and writes Parquet."""

import contextlib


@contextlib.contextmanager
def needs_bulk_extra():
    """Say which extra to install, where an import of the block fails.

    Raises:
        ImportError: If a module is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError(
            "Parquet files and URLs need the extra `bulk`: `pip install "
            f"keras-mixer[bulk]`. Received: {error}."
        ) from error

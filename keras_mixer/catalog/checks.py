"""Checks that recur, for every room."""

import contextlib


def check_choice(name, value, choices):
    """Refuse a value that is not among the choices.

    Raises:
        ValueError: If it is not.
    """
    if value not in choices:
        rule = ", ".join(str(choice) for choice in choices)
        raise ValueError(f"{name} must be one of {rule}. Received: {name}={value!r}.")


def check_range(name, value, low, high):
    """Refuse a number outside `[low, high]`, and what is no number.

    Raises:
        ValueError: If it is.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise ValueError(
            f"{name} must be in [{low:g}, {high:g}]. Received: {name}={value}."
        )


def check_positive(name, value):
    """Refuse what is not a positive integer.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(
            f"{name} must be a positive integer. Received: {name}={value}."
        )


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

"""Damaged copies of a file's bytes, the same on every run."""

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# How many of a format the slow tests try; `MUTANTS=2000 make test-all` tries more.
MANY = int(os.environ.get("MUTANTS", 150))

_DAMAGES = (
    *("bit", "byte", "bytes", "cut", "number", "insert", "delete", "copy", "many"),
)
_NUMBERS = [0, 1, 2**15, 2**31 - 1, 2**32 - 1, 2**62, 2**64 - 1]


@st.composite
def mutants(draw, data):
    """Damaged copies of a file's bytes."""
    data = bytearray(data)
    places = st.integers(0, len(data) - 1)
    at = draw(places)
    length = min(draw(st.sampled_from([1, 2, 4, 8, 16, 100])), len(data) - at)
    match draw(st.sampled_from(_DAMAGES)):
        case "bit":
            data[at] ^= 1 << draw(st.integers(0, 7))
        case "byte":
            data[at] = draw(st.integers(0, 255))
        case "bytes":
            data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
        case "cut":
            del data[at:]
        case "number":  # A length, an offset or a count, of any width.
            width = draw(st.sampled_from([1, 2, 4, 8]))
            value = draw(st.sampled_from(_NUMBERS)) + draw(st.integers(-1, 1))
            value %= 2 ** (8 * width)
            data[at : at + width] = value.to_bytes(width, "little")
        case "insert":
            data[at:at] = draw(st.binary(min_size=length, max_size=length))
        case "delete":
            del data[at : at + length]
        case "copy":
            to = draw(places)
            data[to:to] = data[at : at + length]
        case "many":
            for place in draw(st.lists(places, min_size=20, max_size=20)):
                data[place] = draw(st.integers(0, 255))
    return bytes(data)


def for_each_mutant(data, count, check):
    """Call `check` with each of `count` damaged copies of `data`."""

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=5000,  # milliseconds
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(mutant=mutants(data))
    def checked(mutant):
        check(mutant)

    checked()

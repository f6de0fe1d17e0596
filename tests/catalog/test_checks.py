"""The checks of arguments that recur."""

import pytest

from keras_mixer.catalog.checks import check_choice, check_positive, check_range


@pytest.mark.parametrize(
    ("check", "arguments", "words"),
    [
        (check_choice, ("a", "c", (None, "b")), r"a must be one of None, b\. .*a='c'"),
        (check_range, ("a", 2, 0, 1), r"a must be in \[0, 1\]\. .*a=2\."),
        (check_range, ("a", float("nan"), 0, 1), "a=nan"),
        (check_range, ("a", True, 0, 1), "a=True"),
        (check_range, ("a", "1", 0, 1), "a=1"),
        (check_positive, ("a", 0), r"a must be a positive integer\. .*a=0\."),
        (check_positive, ("a", 1.0), r"a=1\.0"),
        (check_positive, ("a", True), "a=True"),
    ],
)
def test_checks_say_rule_and_value(check, arguments, words):
    with pytest.raises(ValueError, match=words):
        check(*arguments)


def test_checks_pass_what_is_allowed():
    check_choice("a", None, (None, "b"))
    check_range("a", 1, 0, 1)
    check_positive("a", 1)

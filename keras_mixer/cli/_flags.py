"""What the flags of several verbs have in common, each defined once."""

from absl import flags

# The exit status of a run that was stopped: EX_TEMPFAIL of sysexits.h, "temporary
# failure", try the same command again.
RESUME_ME = 75

# Flags defined here are the verb's that asks for them.
flags.disclaim_key_flags()

_DEFINE: dict = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    str | None: flags.DEFINE_string,
}


def define_settings(fields, help_of):
    """Define a flag for fields of a dataclass, by the type and the name of each.

    Args:
        fields: Some of `dataclasses.fields(...)`.
        help_of: Function from a field to the flag's help.

    Returns:
        A function that returns the values of those flags that were given, by name.
    """
    holders = {
        field.name: _DEFINE[field.type](field.name, None, help_of(field))
        for field in fields
    }

    def given():
        return {
            name: holder.value
            for name, holder in holders.items()
            if holder.value is not None
        }

    return given


def numbers(holder, kind=int):
    """Return what a flag that `DEFINE_list` made holds, as numbers of a kind.

    Raises:
        ValueError: If something in it is no such number.
    """
    try:
        return [kind(number) for number in holder.value]
    except ValueError:
        what = "whole numbers" if kind is int else "numbers"
        raise ValueError(
            f"--{holder.name} must be {what} with commas between them, such as "
            f"{','.join(holder.default)}. Received: {','.join(holder.value)}."
        ) from None

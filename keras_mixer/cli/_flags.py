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


def define_weights(also=""):
    """Define --weights, which stands beside a named model.

    Args:
        also: More to say of it.
    """
    return flags.DEFINE_string(
        "weights",
        None,
        "For a named model: a tag of the catalogue, the path of a file, or "
        f"hf://org/repo@revision.{also}",
    )


def define_labels():
    """Define --labels."""
    return flags.DEFINE_string(
        "labels",
        None,
        "A text file with the name of one class a line, or a tag of weights with these "
        "classes, such as imagenet. Without it: the classes of the tag, for a named "
        "model; labels.txt beside a .keras file; else ImageNet's, for as many classes; "
        "else the classes' numbers.",
    )


def define_data():
    """Define --dataset and --data_dir, and return both."""
    dataset = flags.DEFINE_string(
        "dataset", None, "digits, folder:PATH, or the name of a TensorFlow Dataset."
    )
    data_dir = flags.DEFINE_string(
        "data_dir", None, "Where TensorFlow Datasets keeps its data."
    )
    return dataset, data_dir


def define_json():
    """Define --json."""
    return flags.DEFINE_bool("json", False, "Print JSON instead of a table.")


# What --weights also says for a .keras file.
PREPARES = (
    " For a .keras file built with include_preprocessing=False: the tag that says how "
    "to prepare images."
)


def open_trained(model, weights):
    """Open the model that a verb's first argument names.

    Args:
        model: A named model, a `.keras` file, the folder of a run, or `hf://org/repo`.
        weights: What --weights is.

    Raises:
        ValueError: If it is a named model without weights, or there is none.
    """
    from keras_mixer import models

    if model in models.VARIANTS and not weights:
        raise ValueError(
            f"{model} without weights is random. Received: no --weights. Name a file, "
            "or a tag that `keras-mixer weights` lists."
        )
    return models.open_model(model, weights)


def _define(field, help):
    choices = field.metadata.get("choices")
    if choices:
        return flags.DEFINE_enum(field.name, None, choices, help)
    return _DEFINE[field.type](field.name, None, help)


def define_settings(fields, help_of):
    """Define a flag for fields of a dataclass, by the type and the name of each.

    Args:
        fields: Some of `dataclasses.fields(...)`.
        help_of: Function from a field to the flag's help.

    Returns:
        A function that returns the values of those flags that were given, by name.
    """
    holders = {field.name: _define(field, help_of(field)) for field in fields}

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

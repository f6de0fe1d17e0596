"""What `--help` prints: of the program, and of a verb."""

import re
import textwrap

from absl import flags

_WIDTH = 80
# Values of flags by their types, as a user types them.
_VALUES = {"int": "INT", "float": "FLOAT", "comma separated list of strings": "A,B,..."}


def of_program(verbs):
    """The help of `keras-mixer`: what each verb, a key of `verbs`, does."""
    lines = [
        "Usage: keras-mixer VERB [ARGUMENT...] [--FLAG=VALUE...]",
        "       keras-mixer VERB --help",
        "       keras-mixer --version",
        "",
        "MLP-Mixer: label images, train, measure, export and serve.",
        "",
        "Verbs:",
        *(f"  {verb:12}{purpose}" for verb, purpose in verbs.items()),
        "",
        "Examples:",
        "  keras-mixer predict cat.jpg photos/",
        "  keras-mixer train --dataset=folder:flowers --model=MlpMixerB16 \\",
        "      --weights=imagenet --output_dir=runs/flowers",
        "  keras-mixer evaluate runs/flowers --dataset=folder:flowers",
        "  keras-mixer export runs/flowers models/flowers",
        "  keras-mixer serve models/flowers",
    ]
    return "\n".join(lines)


def of_verb(verb, program):
    """The help of a verb, from its module's `ARGUMENTS`, docstring and flags."""
    purpose, *paragraphs = program.__doc__.strip().split("\n\n")
    examples = [part for part in paragraphs if part.startswith("    ")]
    texts = [part for part in paragraphs if part not in examples]
    usage = ["Usage: keras-mixer", verb, program.ARGUMENTS, "[--FLAG=VALUE...]"]
    listed = textwrap.indent(textwrap.dedent("\n".join(examples)), "  ")
    parts = [" ".join(filter(None, usage)), purpose, *texts, f"Examples:\n{listed}"]
    if defined := flags_of(program):
        parts.append("Flags:\n" + "\n".join(map(_described, defined)))
    parts.append("--helpfull lists the flags of absl, such as those of the log, too.")
    return "\n\n".join(parts)


def flags_of(program):
    """The flags of a verb's module, in the order of their definition."""
    return flags.FLAGS.get_key_flags_for_module(program)


def choices_of(flag):
    """What a flag may be, where that is a list, else nothing."""
    return getattr(flag.parser, "enum_values", None) or ()


def _described(flag):
    if flag.boolean:
        head = f"--[no-]{flag.name}"
    else:
        value = _VALUES.get(flag.flag_type(), "TEXT")
        head = f"--{flag.name}={'|'.join(choices_of(flag)) or value}"
    said = re.sub(r"^<.*?>: ", "", flag.help)  # absl's own list of the choices
    if flag.default not in (None, False):
        default = flag.default_as_str.strip("'")
        said += f" Default: {default}."
    return f"  {head}\n" + textwrap.fill(
        said, _WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 8
    )

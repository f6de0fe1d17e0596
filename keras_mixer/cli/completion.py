"""Print a script that completes what is typed in a shell.

    source <(keras-mixer completion bash)
    keras-mixer completion bash > ~/.local/share/bash-completion/completions/keras-mixer
    keras-mixer completion zsh > ~/.keras-mixer.zsh

The first line is for a shell that runs; the second is for those to come. zsh reads its
script by `source ~/.keras-mixer.zsh` in ~/.zshrc, after compinit. Flags of a verb whose
extra is not installed are left out; print the script again when it is.
"""

import importlib
import textwrap

from absl import flags

from keras_mixer import cli
from keras_mixer.cli import _help

ARGUMENTS = "bash|zsh"
_BASH = """\
_keras_mixer() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    local flag= words= prefix=
    COMPREPLY=()
    # bash parts words at =, unless it is told not to; zsh does not.
    if [[ $word == "=" ]]; then
        flag=$before word=
    elif [[ $before == "=" ]]; then
        flag=${COMP_WORDS[COMP_CWORD-2]}
    elif [[ $word == --*=* ]]; then
        flag=${word%%=*} word=${word#*=} prefix=$flag=
    fi
    if ((COMP_CWORD == 1)); then
        words="VERBS --help --version"
    elif [[ $flag ]]; then
        case "${COMP_WORDS[1]} $flag" in
CHOICES
        *) return ;;
        esac
    elif [[ $word == -* ]]; then
        case ${COMP_WORDS[1]} in
FLAGS
        esac
    else
        return
    fi
    COMPREPLY=($(compgen -P "$prefix" -W "$words" -- "$word"))
    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
}
complete -o default -F _keras_mixer keras-mixer
"""
# zsh runs that by its bashcompinit, which has no compopt: no space ever, but our own.
_ZSH = [
    (
        "_keras_mixer() {",
        "autoload -U +X bashcompinit && bashcompinit\n_keras_mixer() {",
    ),
    (
        "== *= ]] && compopt -o nospace 2>/dev/null",
        """== *= ]] || COMPREPLY=("${COMPREPLY[@]/%/ }")""",
    ),
    ("complete -o", "complete -o nospace -o"),
]


def main(argv):
    """Print the script for the shell that `argv` names."""
    if argv[1:] not in (["bash"], ["zsh"]):
        raise ValueError(
            "completion takes the name of a shell, bash or zsh. Received: "
            f"{' '.join(argv[1:]) or 'none'}."
        )
    choices, names = [], []
    for verb in cli.VERBS:
        for flag in _flags_of(verb):
            ending = "" if flag.boolean else "="
            names.append((verb, f"--{flag.name}{ending}"))
            if found := _help.choices_of(flag):
                choices.append(f'"{verb} --{flag.name}") words="{" ".join(found)}" ;;')
    cases = []
    for verb in cli.VERBS:
        words = " ".join([*(name for v, name in names if v == verb), "--help"])
        cases.append(f'{verb}) words="{words}" ;;')
    script = _BASH.replace("VERBS", " ".join(cli.VERBS))
    for place, lines in [("CHOICES", choices), ("FLAGS", cases)]:
        script = script.replace(place, textwrap.indent("\n".join(lines), " " * 8))
    if argv[1] == "zsh":
        for bash, zsh in _ZSH:
            script = script.replace(bash, zsh)
    print(script, end="")


def _flags_of(verb):
    """The flags of a verb, which are forgotten again: two verbs share some names."""
    try:
        program = importlib.import_module(f"keras_mixer.cli.{verb}")
    except ImportError:
        return []
    found = _help.flags_of(program)
    for flag in found:
        delattr(flags.FLAGS, flag.name)
    return found

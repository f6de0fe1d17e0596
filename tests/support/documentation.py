"""The code blocks of the documentation: read from a page, and run as a reader does.

As a program, runs the blocks that come as JSON on standard input, in their order:
Python in this one process, commands by bash.
"""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys

# A block, and the mark before it that says why it is not run.
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^>]+) -->\n+)?"
    r"```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.M | re.S,
)
COMMANDS = ("", "shell")


@dataclasses.dataclass(frozen=True)
class Block:
    """A code block of a page.

    Attributes:
        page: Path of the page.
        line: Number of the line above its first.
        language: As the page says it; none is a block of commands.
        text: What it holds.
        reason: Why it is not run, or None.
    """

    page: str
    line: int
    language: str
    text: str
    reason: str | None = None


def blocks_of(page, text):
    """Return the code blocks of a page's text, in their order."""
    return [
        Block(
            page,
            text.count("\n", 0, match.start("text")),
            match["language"],
            match["text"],
            match["reason"],
        )
        for match in _BLOCK.finditer(text)
    ]


def commands_of(block):
    """Return the commands of a block of commands, each a list of words."""
    found = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command = []
        for word in [*words, ";"]:
            if not set(word) <= set("();<>|&"):
                command.append(word)
            elif command:
                found.append(command)
                command = []
    return found


def main():
    names = {"__name__": "__main__"}
    terminal = dict(os.environ)  # what Python sets for itself is not the commands'
    for block in json.load(sys.stdin):
        print(f"\n== {block['page']}, line {block['line']}", flush=True)
        if block["language"] == "python":
            lines = "\n" * block["line"] + block["text"]
            exec(compile(lines, block["page"], "exec"), names)
        else:
            bash = ["bash", "-euo", "pipefail", "-c", block["text"]]
            subprocess.run(bash, env=terminal, check=True, stdin=subprocess.DEVNULL)


if __name__ == "__main__":
    main()

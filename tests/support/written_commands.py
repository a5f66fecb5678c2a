"""Finds the commands in the pages and in the comments of params.yaml."""

import re
import shlex
from dataclasses import dataclass

from pages import PAGES, ROOT

# First words by which commands are recognised outside shell blocks: in the text, and in indented blocks.
TOOLS = (
    "cosmic-ray cr-filter-operators cr-report python python3 pytest pip pipx uv conda docker dvc git lrec torchrun npm "
    "mkdir tar unzip curl wget ruff pyright"
).split()
SETTING = r"[A-Z][A-Z_]*=\S* "
BEGINS = re.compile(rf"(?:{SETTING})*(?:{'|'.join(map(re.escape, TOOLS))})(?: |$)|-S ")
SHELLS = ("sh", "bash", "shell", "console")


@dataclass(frozen=True)
class Command:
    """A command of a page, or a part of one in a sentence, such as -S train.seed=1."""

    page: str
    text: str

    def parts(self) -> list[list[str]]:
        """Return the words of each program that the command starts, without variables set before it."""
        lexer = shlex.shlex(self.text, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        found: list[list[str]] = [[]]
        for word in lexer:
            if word and set(word) <= set("|&;"):
                found.append([])
            elif found[-1] or not re.fullmatch(SETTING.strip(), word):
                found[-1].append(word)
        return [words for words in found if words]

    def overrides(self) -> list[str]:
        """Return the arguments of its options -S."""
        return [words[n + 1] for words in self.parts() for n, word in enumerate(words[:-1]) if word == "-S"]


def _complete(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:  # a quotation continues on the next line
        return False
    return not text.endswith("\\")


def _logical(lines: list[str]) -> list[str]:
    """Join continued lines, as a shell does, and remove comments."""
    found, open_line = [], ""
    for line in lines:
        open_line = f"{open_line.removesuffix(chr(92))}{line}" if open_line.endswith("\\") else open_line + line
        if _complete(open_line):
            found.append(re.sub(r"(^|\s+)#\s.*$", "", open_line).strip())
            open_line = ""
        elif not open_line.endswith("\\"):
            open_line += "\n"
    assert not open_line, open_line
    return [line for line in found if line]


def _of_block(language: str, block: str) -> list[str]:
    """Return the commands of a fenced block: all lines of a shell block, or those after prompts."""
    lines = block.splitlines()
    if language in SHELLS:
        return _logical(lines)
    if language:
        return []
    typed, goes_on = [], False
    for line in lines:
        if goes_on or line.startswith("$ "):
            typed.append(line.removeprefix("$ "))
            goes_on = line.endswith("\\")
    return _logical(typed)


def of_text(page: str, text: str) -> list[Command]:
    """Return a page's commands in order; in commands in the text, line breaks become blanks."""
    places: list[tuple[int, str]] = []

    def keep(match: re.Match[str]) -> str:
        places.extend((match.start(), command) for command in _of_block(match[1], match[2]))
        return " " * len(match[0])

    rest = re.sub(r"^```(\w*)\n(.*?)^```$", keep, text, flags=re.MULTILINE | re.DOTALL)
    for match in re.finditer(r"(?:^    \S.*\n)(?:^    .*\n)*", rest, re.MULTILINE):
        lines = [line[4:] for line in match[0].splitlines()]
        if BEGINS.match(lines[0]):
            places += [(match.start(), line) for line in _logical(lines) if BEGINS.match(line)]
    for match in re.finditer(r"`([^`]+)`", rest):
        if BEGINS.match(match[1]):
            places.append((match.start(), " ".join(match[1].split())))
    return [Command(page, command) for _, command in sorted(places, key=lambda place: place[0])]


def of_comments(page: str, text: str) -> list[Command]:
    """Return the commands in comments of a YAML file: after a colon, or whole comments."""
    comments = re.findall(r"(?:^|\s)#\s+(.*)$", text, re.MULTILINE)
    parts = [part for comment in comments for part in re.split(r"(?<=:) ", comment)]
    return [Command(page, part.strip()) for part in parts if BEGINS.match(part)]


def everywhere() -> list[Command]:
    """Return the commands of all pages and of params.yaml."""
    found = [command for page in PAGES for command in of_text(page, (ROOT / page).read_text(encoding="utf-8"))]
    return [*found, *of_comments("params.yaml", (ROOT / "params.yaml").read_text(encoding="utf-8"))]

"""Reads YAML files strictly: safely, without repeated keys, up to a limit of size.

Scalars are read as by DVC, which reads YAML 1.2 with ruamel.yaml: 010 is ten; `no` and 1:30 are text. PyYAML reads
YAML 1.1, so its rules for unquoted scalars are replaced with those of YAML 1.2's core schema and the additions of
ruamel.yaml (1_000, 0b11 and dates).
"""

import re
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES, MAX_NODES = 2**18, 10_000
CONFLICT = ("<<<<<<< ", ">>>>>>> ")  # git's marks around a merge conflict
VERSION = (1, 2)
_TAG = "tag:yaml.org,2002:"
# Tag, pattern of its unquoted scalars, and the characters with which they begin ("": may be empty). The first
# matching pattern applies.
_RESOLVERS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    (
        "float",
        r"[-+]?[0-9][0-9_]*(\.[0-9_]*([eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)"
        r"|[-+]?\.[0-9_]+([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("int", r"[-+]?(0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9_]+)", "-+0123456789"),
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    (
        "timestamp",
        r"[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}"
        r"(\.[0-9]*)?([ \t]*(Z|[-+][0-9]{1,2}(:[0-9]{2})?))?",
        "0123456789",
    ),
    ("value", r"=", "="),
)
_BASES = {"0b": 2, "0o": 8, "0x": 16}


class Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2; refuses repeated keys and aliases that expand to too many entries."""

    yaml_implicit_resolvers: dict = {}  # replaces the inherited rules of YAML 1.1

    def get_single_node(self) -> yaml.Node | None:
        """Compose the document; refuse it if it has too many entries after its aliases are expanded."""
        node = super().get_single_node()
        if self.yaml_version not in (None, VERSION):  # DVC would use the rules of that version
            raise yaml.YAMLError(f"found %YAML {'.'.join(map(str, self.yaml_version))}, expected 1.2; delete the line")
        sizes: dict[yaml.Node, int] = {}

        def unfolded(some: yaml.Node) -> int:
            if some not in sizes:
                sizes[some] = MAX_NODES + 1  # used if the node contains itself
                entries = some.value if isinstance(some, yaml.CollectionNode) else []
                parts = [part for entry in entries for part in (entry if isinstance(entry, tuple) else (entry,))]
                sizes[some] = 1 + sum(unfolded(part) for part in parts)
            return sizes[some]

        if node is not None and unfolded(node) > MAX_NODES:
            raise yaml.YAMLError(f"found more than {MAX_NODES:,} entries after expanding aliases; shorten it")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Refuse a mapping with a repeated key."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                # The key as written and as read, because 1 and 01 are the same key.
                spellings = {key.value} if key.tag == f"{_TAG}merge" else {key.value, self.construct_object(key)}
                if seen & spellings:
                    raise yaml.YAMLError(f"line {key.start_mark.line + 1}: key {key.value!r:.80} given twice")
                seen |= spellings
        return super().construct_mapping(node, deep)

    def integer(self, node: yaml.ScalarNode) -> int:
        """Return an integer; octal numbers begin with 0o, not with 0."""
        text = self.construct_scalar(node).replace("_", "")
        return int(text, _BASES.get(text.lstrip("-+")[:2], 10))

    def decimal(self, node: yaml.ScalarNode) -> float:
        """Return a floating-point number."""
        text = self.construct_scalar(node).replace("_", "").lower()
        return float(text.replace(".inf", "inf").replace(".nan", "nan"))


for _name, _pattern, _first in _RESOLVERS:
    Loader.add_implicit_resolver(f"{_TAG}{_name}", re.compile(rf"(?:{_pattern})\Z"), list(_first))
Loader.add_constructor(f"{_TAG}int", Loader.integer)
Loader.add_constructor(f"{_TAG}float", Loader.decimal)


def read(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        ValueError: not YAML, a key is given twice, or the file is too large; the message names the file.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: found {path.stat().st_size:,} bytes, expected at most {MAX_BYTES:,}; shorten it")
    try:
        text = path.read_text(encoding="utf-8")
        if line := next((n for n, line in enumerate(text.splitlines(), 1) if line.startswith(CONFLICT)), 0):
            raise ValueError(f"line {line} is git's mark of a merge conflict; keep one side of it")
        return yaml.load(text, Loader=Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # A ValueError is raised for an invalid number or date, or for bytes that are not UTF-8.
        raise ValueError(f"{path}: not readable as YAML: {' '.join(str(error).split())}; correct the file") from error

"""A strict reader of YAML files: safe, every key once, and no larger in memory than a person would write."""

import re
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES, MAX_NODES = 2**18, 10_000


class Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-4 as a number, as YAML 1.2 (and DVC) does, and refuses double keys."""

    def get_single_node(self) -> yaml.Node | None:
        """Compose the document, and refuse it if its aliases unfold to a size that nobody would write out."""
        node = super().get_single_node()
        sizes: dict[yaml.Node, int] = {}

        def unfolded(some: yaml.Node) -> int:
            if some not in sizes:
                sizes[some] = MAX_NODES + 1  # what it counts as inside itself
                entries = some.value if isinstance(some, yaml.CollectionNode) else []
                parts = [part for entry in entries for part in (entry if isinstance(entry, tuple) else (entry,))]
                sizes[some] = 1 + sum(unfolded(part) for part in parts)
            return sizes[some]

        if node is not None and unfolded(node) > MAX_NODES:
            raise yaml.YAMLError(f"found more than {MAX_NODES:,} entries, aliases written out; shorten it")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Refuse a mapping that has a key twice."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.YAMLError(f"line {key.start_mark.line + 1}: key {key.value!r:.80} given twice")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read(path: Path) -> Any:
    """Return what a YAML file holds.

    Raises:
        ValueError: not YAML, a key is given twice, or it is too large; one line that names the file.
    """
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: found {path.stat().st_size:,} bytes, expected at most {MAX_BYTES:,}; shorten it")
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # A ValueError is a scalar that looks like a number or a date and is none, or bytes that are not UTF-8.
        raise ValueError(f"{path}: not readable as YAML: {' '.join(str(error).split())}; correct the file") from error

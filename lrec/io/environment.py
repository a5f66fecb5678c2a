"""Variables of the environment that other programs set, read so that none of them can stop this one.

Notebooks, launchers and shells leave settings of their own, or set variables to nothing. Ours are read here, and a
library that fails on a variable when it is imported is imported without it.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator

from lrec.io.text import escaped

DEBUG = "LREC_DEBUG"
# What torchrun sets for the processes that it starts, and nothing else does. RANK, WORLD_SIZE and the like are set by
# schedulers and notebooks too, for other ends.
LAUNCHED = "TORCHELASTIC_RUN_ID"
# By these git tells its hooks which repository they run in; a program that they start may work in another one.
HOOKS = tuple(f"GIT_{name}" for name in "DIR WORK_TREE INDEX_FILE PREFIX COMMON_DIR OBJECT_DIRECTORY".split())
_OFF = ("", "0", "false", "no", "off")
# What torch, or CUDA's allocator in it, ends the program on while it is imported, unless it is of this form.
_PAIR = r"\s*\w+\s*:\s*(\[[^]]*\]|[^][,]+)"
_PAIRS = re.compile(f"{_PAIR}(,{_PAIR})*"), "expected key:value, separated by commas"
_TORCH = {
    "TORCH_DISTRIBUTED_DEBUG": (re.compile("off|info|detail", re.IGNORECASE), "expected OFF, INFO or DETAIL"),
    "PYTORCH_ALLOC_CONF": _PAIRS,
    "PYTORCH_CUDA_ALLOC_CONF": _PAIRS,
}


def debug() -> bool:
    """Say whether LREC_DEBUG asks for tracebacks."""
    return os.environ.get(DEBUG, "").strip().lower() not in _OFF


def rank() -> str | None:
    """Return the rank of a process that torchrun has started; None in any other."""
    return os.environ.get("RANK") or None if os.environ.get(LAUNCHED) else None


def for_git() -> dict[str, str]:
    """Return the environment in which git finds the repository around the current folder, and no other."""
    return {name: value for name, value in os.environ.items() if name not in HOOKS}


@contextlib.contextmanager
def without(*beginnings: str) -> Iterator[None]:
    """Hide the variables whose names begin so while the block runs, such as an import that would fail on them."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(beginnings)}
    try:
        yield
    finally:
        os.environ.update(hidden)


def clear_for_torch() -> None:
    """Remove the variables that would stop the import of torch: those set to nothing, and, with a warning, others.

    To be called before torch is imported.
    """
    for name in [name for name in os.environ if name.startswith(("TORCH", "PYTORCH_")) and not os.environ[name]]:
        del os.environ[name]
    for name, (form, expected) in _TORCH.items():
        if name in os.environ and not form.fullmatch(os.environ[name]):
            value = escaped(os.environ.pop(name))
            print(f"WARNING: {name}={value:.200}: ignored, {expected}; correct it or unset it", file=sys.stderr)


def require_readable_names() -> None:
    """Refuse to work where names of files would be read as other names.

    Raises:
        ValueError: Python decodes them otherwise than as UTF-8; the line names the variables that make it do so.
    """
    found = sys.getfilesystemencoding()
    if found.lower().replace("-", "") != "utf8":
        names = ("LC_ALL", "LC_CTYPE", "LANG", "PYTHONUTF8", "PYTHONCOERCECLOCALE")
        said = ", ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
        raise ValueError(
            f"{said or 'the locale'}: names of files would be read as {found}, expected UTF-8; set PYTHONUTF8=1"
        )

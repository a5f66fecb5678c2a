"""Reads environment variables, and protects imports from those that other programs set.

Notebooks, launchers and shells set variables of their own, sometimes to an empty string. Our variables are read here.
A variable that would make the import of a library fail is removed or hidden before the import.
"""

import contextlib
import os
import re
import sys
from collections.abc import Iterator

from lrec.io.text import escaped

DEBUG = "LREC_DEBUG"
# Set by torchrun alone, for the processes that it starts. Schedulers and notebooks also set RANK, WORLD_SIZE and the
# like, for other purposes.
LAUNCHED = "TORCHELASTIC_RUN_ID"
# Git sets these for its hooks, to name their repository. A program started by a hook may work in another repository.
HOOKS = tuple(f"GIT_{name}" for name in "DIR WORK_TREE INDEX_FILE PREFIX COMMON_DIR OBJECT_DIRECTORY".split())
_OFF = ("", "0", "false", "no", "off")
# Valid forms. With any other value, the import of torch or of its CUDA allocator terminates the program.
_PAIR = r"\s*\w+\s*:\s*(\[[^]]*\]|[^][,]+)"
_PAIRS = re.compile(f"{_PAIR}(,{_PAIR})*"), "expected key:value, separated by commas"
_TORCH = {
    "TORCH_DISTRIBUTED_DEBUG": (re.compile("off|info|detail", re.IGNORECASE), "expected OFF, INFO or DETAIL"),
    "PYTORCH_ALLOC_CONF": _PAIRS,
    "PYTORCH_CUDA_ALLOC_CONF": _PAIRS,
}


def debug() -> bool:
    """Return whether LREC_DEBUG requests tracebacks."""
    return os.environ.get(DEBUG, "").strip().lower() not in _OFF


def rank() -> str | None:
    """Return the rank of this process if torchrun started it, otherwise None."""
    return os.environ.get("RANK") or None if os.environ.get(LAUNCHED) else None


def for_git() -> dict[str, str]:
    """Return the environment for running git on the repository of the current folder, even inside a git hook."""
    return {name: value for name, value in os.environ.items() if name not in HOOKS}


@contextlib.contextmanager
def without(*beginnings: str) -> Iterator[None]:
    """Hide the variables with these prefixes until the block ends, for example for an import that they would break."""
    hidden = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(beginnings)}
    try:
        yield
    finally:
        os.environ.update(hidden)


def clear_for_torch() -> None:
    """Remove variables that would make the import of torch fail: empty ones, and invalid ones with a warning.

    Call this before torch is imported.
    """
    for name in [name for name in os.environ if name.startswith(("TORCH", "PYTORCH_")) and not os.environ[name]]:
        del os.environ[name]
    for name, (form, expected) in _TORCH.items():
        if name in os.environ and not form.fullmatch(os.environ[name]):
            value = escaped(os.environ.pop(name))
            print(f"WARNING: {name}={value:.200}: ignored, {expected}; correct it or unset it", file=sys.stderr)


def require_readable_names() -> None:
    """Require that Python decodes file names as UTF-8.

    Raises:
        ValueError: it uses another encoding; the message names the variables that set it.
    """
    found = sys.getfilesystemencoding()
    if found.lower().replace("-", "") != "utf8":
        names = ("LC_ALL", "LC_CTYPE", "LANG", "PYTHONUTF8", "PYTHONCOERCECLOCALE")
        said = ", ".join(f"{name}={os.environ[name]}" for name in names if name in os.environ)
        raise ValueError(
            f"{said or 'the locale'}: file names would be read as {found}, expected UTF-8; set PYTHONUTF8=1"
        )

"""Formats expected errors as one line that is safe to print."""

import errno

from lrec.io.text import escaped

MAX_LINE = 900  # characters
# Parts of RuntimeError messages of torch and system libraries that mean that memory ran out.
OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "start new thread",
    "failed to map segment from shared object",  # a library that is imported
    "could not create a primitive",  # oneDNN's convolutions
    "unable to find an engine",  # cuDNN, when no algorithm fits into the free memory
    "alloc_failed",  # CUBLAS_STATUS_ALLOC_FAILED, and the same in cuDNN
)
REMEDIES = {
    errno.ENOSPC: "free some space there and run again",
    errno.EDQUOT: "free some space there and run again",
    errno.EROFS: "make the folder writable, or run in another one",
    errno.EACCES: "correct its owner or permissions",
    errno.EPERM: "correct its owner or permissions",
    **dict.fromkeys(
        (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENODEV),
        "its file system does not support this operation; move the project to another one, such as a local disk",
    ),
}


def explain(error: Exception, lower: str) -> str:
    """Return an expected error as one line that is safe to print; an empty string if it is a bug in the program."""
    text = " ".join(str(error).split()) or type(error).__name__
    memory = isinstance(error, MemoryError) or any(sign in text.lower() for sign in OUT_OF_MEMORY)
    if memory and "lower" not in text:
        while error.__cause__:
            error = error.__cause__  # the outer error may blame a damaged file
        detail = " ".join(str(error).split())[:160] or type(error).__name__
        text = f"out of memory ({detail}); {f'lower {lower}, or ' if lower else ''}end other programs and run again"
    elif isinstance(error, OSError) and error.errno and error.strerror:
        remedy = REMEDIES.get(error.errno)
        file = f"{error.filename}: " if error.filename else ""
        text = f"{file}{error.strerror}" + (f"; {remedy}" if remedy else "")
    elif isinstance(error, RuntimeError | ImportError) and not memory:
        return ""
    return shortened(escaped(text))


def shortened(text: str) -> str:
    """Return a line unchanged or, if it is too long, its beginning and end."""
    return text if len(text) <= MAX_LINE else f"{text[: MAX_LINE // 2]} ... {text[-MAX_LINE // 3 :]}"

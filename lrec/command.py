"""How a stage or a tool is started from the shell: its arguments, and errors as one clear line."""

import argparse
import errno
import io
import os
import sys
import warnings
from collections.abc import Callable

from lrec.printable import escaped

MAX_LINE = 900  # characters
DEBUG_VARIABLE = "LREC_DEBUG"
# How torch and the system's libraries say, in a RuntimeError, that memory ran out.
OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "bad_alloc",
    "start new thread",
    "could not create a primitive",  # oneDNN's convolutions
    "alloc_failed",  # CUBLAS_STATUS_ALLOC_FAILED and cuDNN's
)
REMEDIES = {
    errno.ENOSPC: "free some space there and run again",
    errno.EDQUOT: "free some space there and run again",
    errno.EROFS: "make the folder writable, or run in another one",
    errno.EACCES: "correct its owner or permissions",
    errno.EPERM: "correct its owner or permissions",
}


def guard(work: Callable[[], None], debug: bool = False, lower: str = "") -> int:
    """Run `work`; turn an expected error into one line on standard error.

    Args:
        work: what to run.
        debug: errors keep their traceback, here and in the processes that `work` starts, as with the
            environment variable LREC_DEBUG set.
        lower: what to lower when memory runs out, for an error that does not say so itself.

    Returns:
        The exit status: 0, 1 for an error, 130 when interrupted.
    """
    before = os.environ.get(DEBUG_VARIABLE, "")
    debug = debug or bool(before)
    # Pillow warns of oddities such as a corrupt EXIF entry; what cannot be decoded is an error all the same.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that lacks a letter of a class or file name shows its code.
            stream.reconfigure(errors="backslashreplace")
    try:
        os.environ[DEBUG_VARIABLE] = "1" if debug else ""
        work()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        if debug or not (line := explain(error, lower)):
            raise
        who = f"process {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
        print(f"{who}error: {line}", file=sys.stderr)
        return 1
    finally:
        os.environ[DEBUG_VARIABLE] = before
    return 0


def explain(error: Exception, lower: str) -> str:
    """Return an expected error as one line that is safe to print; nothing for a defect of the program."""
    text = " ".join(str(error).split()) or type(error).__name__
    memory = isinstance(error, MemoryError) or any(sign in text.lower() for sign in OUT_OF_MEMORY)
    if memory and "lower" not in text:
        while error.__cause__:
            error = error.__cause__  # what was made of it on the way may take a file for damaged
        detail = " ".join(str(error).split())[:160] or type(error).__name__
        text = f"out of memory ({detail}); {f'lower {lower}, or ' if lower else ''}end other programs and run again"
    elif isinstance(error, OSError) and error.errno and error.strerror:
        remedy = REMEDIES.get(error.errno)
        file = f"{error.filename}: " if error.filename else ""
        text = f"{file}{error.strerror}" + (f"; {remedy}" if remedy else "")
    elif isinstance(error, RuntimeError) and not memory:
        return ""
    return shortened(escaped(text))


def shortened(text: str) -> str:
    """Return a line as it is or, if it quotes a long text, both of its ends."""
    return text if len(text) <= MAX_LINE else f"{text[: MAX_LINE // 2]} ... {text[-MAX_LINE // 3 :]}"


def run(work: Callable[..., None], *arguments: str, lower: str = "") -> None:
    """Start a stage: parse its arguments and --debug, run it, exit with its status.

    Args:
        work: called with one value per argument, in order.
        arguments: names of positional arguments; a name that begins with -- is an on/off switch.
        lower: what to lower when memory runs out, such as a key of params.yaml.
    """
    parser = argparse.ArgumentParser(description=(sys.modules["__main__"].__doc__ or "").split("\n\n")[0])
    for name in arguments:
        if name.startswith("--"):
            parser.add_argument(name, action="store_true")
        else:
            parser.add_argument(name)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args()
    values = [getattr(options, name.removeprefix("--")) for name in arguments]
    sys.exit(guard(lambda: work(*values), options.debug, lower))

"""How a stage or a tool is started from the shell: its arguments, and errors as one clear line."""

import argparse
import os
import sys
import warnings
from collections.abc import Callable

from lrec.printable import escaped

MAX_LINE = 900  # characters
DEBUG_VARIABLE = "LREC_DEBUG"


def guard(work: Callable[[], None], debug: bool = False) -> int:
    """Run `work`; turn an expected error into one line on standard error.

    Returns:
        The exit status: 0, 1 for an error, 130 when interrupted. With `debug`, or with the environment
        variable LREC_DEBUG set, errors keep their traceback.
    """
    # Pillow warns of oddities such as a corrupt EXIF entry; what cannot be decoded is an error all the same.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        work()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, MemoryError) as error:
        if debug or os.environ.get(DEBUG_VARIABLE):
            raise
        who = f"process {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
        print(f"{who}error: {line(error)}", file=sys.stderr)
        return 1
    return 0


def line(error: BaseException) -> str:
    """Return an error's message as one line that is safe to print; of one that quotes a long text, both ends."""
    text = escaped(" ".join(str(error).split())) or type(error).__name__
    return text if len(text) <= MAX_LINE else f"{text[: MAX_LINE // 2]} ... {text[-MAX_LINE // 3 :]}"


def run(work: Callable[..., None], *arguments: str) -> None:
    """Start a stage: parse its arguments and --debug, run it, exit with its status.

    Args:
        work: called with one value per argument, in order.
        arguments: names of positional arguments; a name that begins with -- is an on/off switch.
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
    sys.exit(guard(lambda: work(*values), options.debug))

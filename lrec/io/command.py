"""Starts a stage or a tool from the shell: parses its arguments and prints errors as one line."""

import argparse
import io
import os
import sys
import warnings
from collections.abc import Callable

from lrec.io import environment, errors
from lrec.io.text import escaped


def warn(line: str) -> None:
    """Print a warning on standard error; control characters are shown as escape codes."""
    print(f"WARNING: {escaped(line)}", file=sys.stderr)


def guard(work: Callable[[], None], debug: bool = False, lower: str = "") -> int:
    """Run `work`; turn an expected error into one line on standard error.

    Args:
        work: what to run.
        debug: show the tracebacks of errors, also in processes that `work` starts; the environment variable
            LREC_DEBUG does the same.
        lower: the parameter to lower when memory runs out, if the error does not name one.

    Returns:
        The exit status: 0, 1 for an error, 130 when interrupted.
    """
    before = os.environ.get(environment.DEBUG, "")
    debug = debug or environment.debug()
    # Pillow warns about defects such as corrupt EXIF entries; an image that cannot be decoded is an error anyway.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Characters that the terminal cannot encode are printed as escape codes.
            stream.reconfigure(errors="backslashreplace")
    try:
        os.environ[environment.DEBUG] = "1" if debug else ""
        environment.require_readable_names()
        work()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, MemoryError, RuntimeError, ImportError) as error:
        if debug or not (line := errors.explain(error, lower)):
            raise
        rank = environment.rank()
        print(f"{'' if rank is None else f'process {rank}: '}error: {line}", file=sys.stderr)
        return 1
    finally:
        os.environ[environment.DEBUG] = before
    return 0


def run(work: Callable[..., None], *arguments: str, lower: str = "") -> None:
    """Start a stage: parse its arguments and --debug, run it, exit with its status.

    Args:
        work: called with one value per argument, in order.
        arguments: names of positional arguments; a name that begins with -- is an on/off switch.
        lower: the parameter to lower when memory runs out, such as a key of params.yaml.
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

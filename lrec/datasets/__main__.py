"""Check a raw data set: python -m lrec.datasets check VARIANT."""

import argparse
import sys
from collections.abc import Sequence

from lrec import params
from lrec.datasets import check
from lrec.io import command


def _check(variant_name: str) -> None:
    settings = params.load()
    variant = settings.variant(variant_name)
    check.run(
        variant_name,
        variant.layout,
        settings.raw_root(),
        variant.folder,
        variant.image_size,
        settings.allow_partial,
        settings.machine.decode_workers,
    )


def main(arguments: Sequence[str] | None = None, prog: str = "python -m lrec.datasets") -> int:
    """Parse the command line, run the check, return the exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    checker = commands.add_parser("check", help="counts, archives and every image of a variant; writes nothing")
    checker.add_argument("variant", help="a block of `variants` in params.yaml")
    checker.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)
    return command.guard(lambda: _check(options.variant), options.debug)


if __name__ == "__main__":
    sys.exit(main())

"""The command `lrec`: one name for the tools of the library, also as python -m lrec."""

import argparse
import importlib
import sys
from collections.abc import Sequence

# Name: module with `main(arguments, prog)`, which is imported when it is run; arguments that come first; what it does.
COMMANDS = {
    "check": ("lrec.datasets.__main__", ["check"], "read a raw data set as the pipeline would, and count"),
    "retrieve": ("lrec.retrieve.__main__", [], "search with any image: a table and a figure"),
    "serve": ("lrec.retrieve.__main__", ["--serve"], "search in the browser"),
    "export": ("lrec.export", [], "write a trained ensemble as one file: ONNX, TorchScript, torch.export"),
    "export-gallery": ("lrec.retrieve.gallery", [], "write a database as a table of LanceDB or Parquet"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the tools with the arguments that follow its name, return the exit status."""
    described = "\n".join(f"  {name:<16}{what}" for name, (_, _, what) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="lrec",
        description="Image retrieval by light-weighted randomized ensembles with clustering.",
        epilog=f"commands:\n{described}\n\n`lrec COMMAND --help` shows the options of one.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=", ".join(COMMANDS))
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the command")
    options = parser.parse_args(arguments)
    module, first, _ = COMMANDS[options.command]
    # argparse adds the name of a subcommand itself.
    prog = "lrec" if options.command == "check" else f"lrec {options.command}"
    return importlib.import_module(module).main([*first, *options.arguments], prog)


if __name__ == "__main__":
    sys.exit(main())

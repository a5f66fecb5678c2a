"""Progress bars: updated in place in a terminal, printed as lines in a log file."""

import sys

from lrec.io import environment

with environment.without("TQDM_"):  # settings of a user's other bars; one that is empty stops the import
    from tqdm import tqdm

LOG_INTERVAL = 30.0


def bar(total: int, description: str, quiet: bool = False) -> tqdm:
    """Return a bar that counts images; in a log file it prints every 30 seconds and at the end, `quiet` hides it."""
    interval = 0.2 if sys.stderr.isatty() else LOG_INTERVAL
    return tqdm(
        total=total, desc=description, unit="image", disable=quiet, mininterval=interval, maxinterval=max(interval, 10)
    )

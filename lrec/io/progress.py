"""Progress bars: updated in place in a terminal, printed as lines in a log file."""

import sys

from lrec.io import environment

with environment.without("TQDM_"):  # the user's settings for other bars; an empty one would break the import
    from tqdm import tqdm

LOG_INTERVAL = 30.0


def bar(total: int, description: str, quiet: bool = False) -> tqdm:
    """Return a bar that counts images, hidden if `quiet`; in a log file it prints every 30 seconds and at the end."""
    interval = 0.2 if sys.stderr.isatty() else LOG_INTERVAL
    return tqdm(
        total=total, desc=description, unit="image", disable=quiet, mininterval=interval, maxinterval=max(interval, 10)
    )

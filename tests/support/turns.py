"""Whether work on a folder waits for its turn."""

import threading
from collections.abc import Callable
from pathlib import Path

from lrec.io import locks


def require_turn(target: Path, work: Callable[[], object]) -> None:
    """Require that `work`, which writes `target`, waits while another writes it, and leaves the other's draft alone."""
    thread = threading.Thread(target=work)
    with locks.alone(target):
        draft = target.with_name(f".{target.name}.deadbeef.tmp")
        draft.mkdir()
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
        assert draft.exists()
    thread.join()

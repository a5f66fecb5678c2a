"""How the C library hands out the memory of tensors on a processor."""

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # M_TRIM_THRESHOLD and so on, of malloc.h


def keep_freed_memory() -> None:
    """Let this process keep freed memory for its next tensors instead of giving it back to the system.

    A training step, or a batch of an extraction, takes and frees tensors of the same sizes over and over. By default
    glibc returns large blocks at once, and the kernel then clears every page anew; and a thread's own arena, which
    cannot hold a block of more than 64 MB, returns such blocks in any case, so all threads share one arena. Other C
    libraries are left as they are.

    Source: mallopt(3); measured in benchmarks/training.py and benchmarks/extraction.py.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
        mallopt(_ARENA_MAX, 1)

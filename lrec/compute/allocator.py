"""How the C library allocates the memory of tensors on a CPU."""

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # M_TRIM_THRESHOLD and so on, of malloc.h


def keep_freed_memory() -> None:
    """Keep freed memory in this process for its next tensors instead of returning it to the system.

    Training steps and batches of an extraction repeatedly allocate and free tensors of the same sizes. By default,
    glibc returns large blocks immediately, and the kernel has to clear every page again. A thread's own arena
    cannot hold blocks of more than 64 MB and always returns them, so all threads use one arena. With
    other C libraries this does nothing.

    Source: mallopt(3); measured in benchmarks/training.py and benchmarks/extraction.py.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, -1)
        mallopt(_ARENA_MAX, 1)

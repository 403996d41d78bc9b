"""Freed memory that a process keeps, so that a step need not ask the system for what the step before has freed.

A training step frees its activations in its backward pass.  glibc then gives what lies free at the end of its heap back to the
system, and the next forward pass takes it again page by page: tens of thousands of page faults a step.  How much memory goes
back depends on what happens to lie above, so that two methods with the same arithmetic differ in time by chance.
"""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

# <malloc.h> of the GNU C library, where mallopt(parameter, value) answers 1 if it took the value.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the GNU C library keep all that is freed, for this whole process from now on; whether it will.

    Nothing is given back before 2 GiB are free at the end of the heap, and no allocation gets pages of its own, which would go
    back when it is freed.  The process stays as large as it ever was.  Call it before the first training step.
    Without effect for memory on other devices and where another allocator was loaded in place of the library's; False, and
    nothing changed, where the C library has no ``mallopt`` (macOS, Windows, musl).
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function; Windows takes no None
        return False
    return all([set_option(M_TRIM_THRESHOLD, LARGEST_INT), set_option(M_MMAP_MAX, 0)])

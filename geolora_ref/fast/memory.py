"""Let glibc's allocator keep freed memory in the process, so that a training step reuses the pages
of the step before.

A training step frees its activations in its backward pass.  glibc then returns free memory at the
end of its heap to the system, and the next forward pass fetches it again page by page: tens of
thousands of page faults a step.  How much memory is returned depends on which blocks happen to lie
above it, so two methods with the same arithmetic may differ in time by chance.
"""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

# <malloc.h> of the GNU C library, where mallopt(parameter, value) answers 1 if it took the value.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Make the GNU C library keep freed memory, for the whole process from now on; returns whether
    it accepted.

    Memory is returned to the system only above 2 GiB of free space at the end of the heap.  No
    allocation is mapped separately, because such pages are returned when freed.  The process stays
    as large as it ever was.  Call it before the first training step.  It has no effect on device
    memory, nor if another allocator replaces the library's.  Where the C library has no ``mallopt``
    (macOS, Windows, musl) it returns False and changes nothing.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no such function; Windows takes no None
        return False
    return all([set_option(M_TRIM_THRESHOLD, LARGEST_INT), set_option(M_MMAP_MAX, 0)])

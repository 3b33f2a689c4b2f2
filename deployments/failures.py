"""What an adapter's exception means beyond itself: out of memory, or a GPU gone bad. No Ray; torch is known by name."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from tollama.errors import TollamaError

OOM = "oom"
"""A memory was too small for a load or a call; the process is well."""
CUDA = "cuda"
"""The GPU's state is bad: every further call of this process would fail."""
HEALTH = "health"
"""A call that came to a process that is being replaced: it was not computed, and may be sent again."""
MEMORY = "memory"
"""A load that was not tried, since there is no room."""

FULL = ("out of memory", "can't allocate memory", "defaultcpuallocator", "_alloc_failed")
"""What torch, its allocators and CUDA's libraries say (in small letters) when a memory is full."""
BAD = ("cuda error", "device-side assert", "cudaerror", "illegal memory access")
"""What they say when a kernel went wrong; the context does not recover from that."""


class Refused(Exception):
    """A load or call that fails as a whole, for every request in it. ``error`` is for the client; ``cause`` is one of
    the above, or None."""

    def __init__(self, error: TollamaError, cause: str | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.cause = cause


def cause_of(error: BaseException) -> str | None:
    """``OOM``, ``CUDA`` or None, for an exception or the one that it came from."""
    found = [cause for one in _chain(error) if (cause := _cause(one)) is not None]
    return CUDA if CUDA in found else found[0] if found else None


def _cause(error: BaseException) -> str | None:
    names = {kind.__name__ for kind in type(error).__mro__}
    text = str(error).lower()
    if isinstance(error, MemoryError) or "OutOfMemoryError" in names:
        return OOM
    if isinstance(error, OSError):
        return OOM if error.errno == errno.ENOMEM else None
    if isinstance(error, RuntimeError):
        if any(words in text for words in FULL):  # "CUDA error: out of memory" is no bad state
            return OOM
        if "AcceleratorError" in names or any(words in text for words in BAD):
            return CUDA
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)

"""What ``tollama serve`` does with the signals that it gets."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tollama import launcher


@pytest.fixture
def hangup() -> Iterator[None]:
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("handler", "heard"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_a_hangup_counts_unless_it_is_ignored(hangup: None, handler: signal.Handlers, heard: bool) -> None:
    """``nohup tollama serve`` outlives its terminal."""
    signal.signal(signal.SIGHUP, handler)
    with launcher._signals() as asked:
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
    assert asked == [*([signal.SIGHUP] if heard else []), signal.SIGTERM, signal.SIGINT]
    assert signal.getsignal(signal.SIGHUP) is handler

"""How a run ends before its time, and what the command's exit code says of it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wsikit.pipeline.stopping import Stop

SIGNALS = {signal.SIGINT: "interrupt", signal.SIGTERM: "terminated"}
EXIT_CODES = {"interrupt": 130, "terminated": 143, "walltime": 4}
"""Reason -> exit code; of others 2."""
GRACE_S = 8.0
"""Seconds to come to a good end; then the process is gone. What is on disk is whole at any time, and schedulers kill
what does not stop."""
MARGIN_S = 30.0
"""So long before the end of its wall time a run stops, or a tenth of a shorter one."""


@contextmanager
def stop_when_asked(walltime: str | None) -> Iterator[Stop]:
    """A ``Stop`` that SIGINT, SIGTERM and the end of the wall time set. Raises ConfigError for what is no time."""
    from wsikit.pipeline.stopping import Stop, seconds_of

    stop = Stop()
    with ExitStack() as stack:
        if walltime is not None:
            seconds = seconds_of(walltime)
            _after(stack, seconds - min(MARGIN_S, seconds / 10), lambda: stop.set("walltime"))
        stop.on_stop(lambda: _after(stack, GRACE_S, lambda: os._exit(EXIT_CODES.get(stop.reason, 2))))
        for number, reason in SIGNALS.items():
            _listen(stack, number, stop, reason)
        yield stop


def _after(stack: ExitStack, seconds: float, call: Callable[[], object]) -> None:
    timer = threading.Timer(seconds, call)
    timer.daemon = True
    stack.callback(timer.cancel)
    timer.start()


def _listen(stack: ExitStack, number: signal.Signals, stop: Stop, reason: str) -> None:
    # shells let what they run in the background ignore Ctrl-C
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(number) is signal.SIG_IGN:
        return
    # a handler interrupts its thread anywhere, also where that holds a lock: another thread does the work
    before = signal.signal(number, lambda *_: threading.Thread(target=stop.set, args=(reason,)).start())
    stack.callback(signal.signal, number, before)

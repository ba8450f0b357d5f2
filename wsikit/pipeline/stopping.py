"""Ending a run before its end, whatever the reason: one object that the parts of a run look at."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from contextlib import ExitStack

from wsikit.errors import ConfigError, StoppedError

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


class Stopping(BaseException):
    """Ends the work on a slide, whose record goes on saying that it is running; no error of the slide's."""


class Stop:
    """Whether a run is to end now, and why. All of it may be called from any thread, but not from a signal handler."""

    def __init__(self) -> None:
        self.reason = ""
        """A code of ``StoppedError``, or the empty string."""
        self._detail = ""
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], object]] = []

    def set(self, reason: str, detail: str = "") -> None:
        """End the run. The first reason counts; ``detail`` is what there is to say beyond it."""
        with self._lock:
            if self._event.is_set():
                return
            self.reason, self._detail = reason, detail
            self._event.set()
        with ExitStack() as calls:
            for callback in reversed(self._callbacks):
                calls.callback(callback)

    def on_stop(self, callback: Callable[[], object]) -> None:
        """Call this once when the run is to end; now, where it is already."""
        with self._lock:
            if not self._event.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def is_set(self) -> bool:
        """Whether the run is to end."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise ``Stopping`` where the run is to end."""
        if self._event.is_set():
            raise Stopping

    def error(self) -> StoppedError:
        """What the caller of the run is told."""
        return StoppedError(self._detail or StoppedError.messages[self.reason], code=self.reason)


def seconds_of(text: str) -> float:
    """A length of time: ``3h50m``, ``45m``, ``1d2h``, ``3:50:00`` (h:m:s), ``1-02:00:00`` (days) or seconds.

    Raises ConfigError for anything else; ``3:50`` could be minutes or hours.
    """
    plain = text.strip().lower()
    clock = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d):([0-5]\d)", plain)
    units = re.fullmatch(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+(?:\.\d+)?)s?)?", plain)
    match = clock or units
    seconds = 0.0
    if match:
        seconds = sum(float(part) * _UNITS[unit] for part, unit in zip(match.groups(), "dhms", strict=True) if part)
    if seconds <= 0:
        raise ConfigError(f"{text!r} is no length of time; write it like 3h50m, 45m, 3:50:00 or 13800 (seconds)")
    return seconds

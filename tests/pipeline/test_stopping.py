"""What ends a run before its time."""

from __future__ import annotations

import pytest

from wsikit.errors import ConfigError
from wsikit.pipeline.stopping import Stop, Stopping, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3h50m", 13800), ("3:50:00", 13800), ("13800", 13800), ("45m", 2700), ("45min", 2700), ("1d2h", 93600),
        ("1-02:00:00", 93600), ("90s", 90), ("1.5", 1.5), (" 2H ", 7200), ("100:00:01", 360001),
    ],
)  # fmt: skip
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0h", "-5", "3:50", "3h 50m", "h", "1:60:00", "5x", "nan", "inf", "m5"])
def test_what_is_no_length_of_time_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ConfigError, match="3h50m"):
        seconds_of(text)


def test_the_first_reason_counts_and_every_callback_is_called_once() -> None:
    stop, called = Stop(), []
    stop.check()
    stop.on_stop(lambda: called.append("first"))
    stop.on_stop(lambda: called.append("second"))
    stop.set("walltime")
    stop.set("terminated")
    stop.on_stop(lambda: called.append("late"))
    assert called == ["first", "second", "late"]
    assert (stop.reason, stop.error().code) == ("walltime", "walltime")
    with pytest.raises(Stopping):
        stop.check()


def test_a_callback_that_fails_keeps_no_other_from_its_turn() -> None:
    stop, called = Stop(), []
    stop.on_stop(lambda: 1 / 0)
    stop.on_stop(lambda: called.append("second"))
    with pytest.raises(ZeroDivisionError):
        stop.set("interrupt")
    assert called == ["second"]

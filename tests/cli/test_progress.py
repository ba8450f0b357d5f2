"""What a run shows on a terminal, on a console that records."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress

from wsikit.cli.progress import _columns, _Live, outcome, shortened, time_left
from wsikit.pipeline.inputs import SlideEntry

DONE: dict[str, Any] = {"status": "complete", "objects_per_class": {"Nucleus": 43386}, "seconds": {"total": 4.2}}


@pytest.fixture
def progress() -> Iterator[Progress]:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with Progress(*_columns(), console=console, auto_refresh=False) as found:
        yield found


def entry(name: str) -> SlideEntry:
    return SlideEntry(name, Path(name))


def shown(progress: Progress) -> list[str]:
    """The lines of the display as it is now."""
    console = Console(file=io.StringIO(), width=80)
    console.print(progress.get_renderable())
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined, no-any-return]


def test_there_is_a_line_for_every_running_slide_while_it_runs(progress: Progress) -> None:
    live = _Live(progress, 3)
    for name in ("one", "two"):
        live.started(entry(name))
    live.progress(entry("one"), 1, 4)
    first, second, third = shown(progress)
    assert first.split()[:1] + second.split()[:1] + third.split()[:1] == ["slides", "one", "two"]
    assert "25%" in second
    assert "opening" in third
    live.finished(entry("one"), DONE, kept=False)
    assert [line.split()[0] for line in shown(progress)] == ["slides", "two"]


def test_after_its_last_super_tile_a_slide_is_being_written(progress: Progress) -> None:
    live = _Live(progress, 1)
    live.started(entry("one"))
    live.progress(entry("one"), 4, 4)
    assert "writing" in shown(progress)[1]


def test_the_run_moves_with_its_slides_and_kept_ones_do_not_count_as_pace(progress: Progress) -> None:
    live = _Live(progress, 3)
    live.finished(entry("kept"), DONE, kept=True)
    live.started(entry("one"))
    live.progress(entry("one"), 1, 2)
    (task,) = (task for task in progress.tasks if task.description == "slides")
    assert (task.completed, task.total, task.fields["state"]) == (0.5, 2, "1 of 3")


def test_long_names_leave_room_for_the_numbers(progress: Progress) -> None:
    live = _Live(progress, 1)
    live.started(entry("a-name-of-a-slide-that-is-far-too-long-for-a-terminal-of-eighty-columns-1"))
    live.progress(entry("a-name-of-a-slide-that-is-far-too-long-for-a-terminal-of-eighty-columns-1"), 1, 2)
    line = shown(progress)[1]
    assert "columns-1" in line
    assert "50%" in line


@pytest.mark.parametrize(
    ("elapsed", "done", "total", "said"),
    [
        (10, 1, 4, "30 s left"),
        (300, 1, 3, "10 min left"),
        (3600, 1, 3, "2 h 00 min left"),
        (10, 0, 4, ""),
        (10, 4, 4, ""),
        (10, 0, None, ""),
    ],
)
def test_time_left_is_that_of_the_pace_so_far(elapsed: float, done: float, total: float | None, said: str) -> None:
    assert time_left(elapsed, done, total) == said


@given(st.text(max_size=60), st.integers(3, 50))
def test_a_shortened_name_fits_and_keeps_both_ends(name: str, most: int) -> None:
    short = shortened(name, most)
    assert len(short) == min(len(name), most)
    assert (short[:1], short[-1:]) == (name[:1], name[-1:])


def test_counts_have_thousands_separators() -> None:
    assert outcome(entry("one"), DONE, kept=False) == "one: complete, 43,386 Nucleus, 4.2 s"

"""What a run shows while it runs: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsikit.pipeline.batch import Observer
    from wsikit.pipeline.inputs import SlideEntry


@contextmanager
def observer(total: int) -> Iterator[Observer]:
    """The observer that suits where the output goes."""
    if not sys.stdout.isatty():
        yield _Lines(total)
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, refresh_per_second=4) as progress:
        yield _Live(progress, total)


def outcome(entry: SlideEntry, record: dict[str, Any], *, kept: bool) -> str:
    """One line that says how a slide ended."""
    if record["status"] == "failed":
        line = f"{entry.slide_id}: failed ({record['reason']}): {record['message']}"
        return line + (f" -> {record['remedy']}" if record.get("remedy") else "")
    found = ", ".join(f"{count} {name}" for name, count in record.get("objects_per_class", {}).items())
    areas = ", ".join(f"{share:.1%} {name}" for name, share in record.get("area_fractions", {}).items())
    seconds = "kept from an earlier run" if kept else f"{record['seconds']['total']:.1f} s"
    bad = f", {len(record['bad_tiles'])} bad tiles" if record.get("bad_tiles") else ""
    return f"{entry.slide_id}: {record['status']}, {found or areas or 'nothing found'}{bad}, {seconds}"


class _Lines:
    """A line when a slide starts, every tenth of it, and when it ends."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._ended = itertools.count(1)
        self._lock = threading.Lock()

    def _say(self, text: str) -> None:
        # a name may hold what the output's encoding lacks, newlines included
        line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
        encoding = sys.stdout.encoding or "utf-8"
        with self._lock:
            print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)

    def started(self, entry: SlideEntry) -> None:
        self._say(f"{entry.slide_id}: started")

    def progress(self, entry: SlideEntry, done: int, total: int) -> None:
        if total >= 20 and done % (total // 10) == 0 and 0 < done < total:
            self._say(f"{entry.slide_id}: {done} of {total} super-tiles")

    def finished(self, entry: SlideEntry, record: dict[str, Any], *, kept: bool) -> None:
        ended = next(self._ended)
        self._say(f"[{ended}/{self._total}] {outcome(entry, record, kept=kept)}")


class _Live:
    """A bar for the run and one for every slide that is running."""

    def __init__(self, progress: Any, total: int) -> None:
        self._progress = progress
        self._all = progress.add_task("slides", total=total)
        self._bars: dict[str, Any] = {}

    def started(self, entry: SlideEntry) -> None:
        self._bars[entry.slide_id] = self._progress.add_task(_short(entry.slide_id), total=None)

    def progress(self, entry: SlideEntry, done: int, total: int) -> None:
        self._progress.update(self._bars[entry.slide_id], completed=done, total=total)

    def finished(self, entry: SlideEntry, record: dict[str, Any], *, kept: bool) -> None:
        from rich.text import Text

        bar = self._bars.pop(entry.slide_id, None)
        if bar is not None:
            self._progress.remove_task(bar)
        style = {"complete": "green", "partial": "yellow"}.get(record["status"], "red")
        self._progress.console.print(Text(outcome(entry, record, kept=kept), style=style), soft_wrap=True)
        self._progress.advance(self._all)


def _short(name: str) -> str:
    return name if len(name) <= 40 else name[:39] + "…"

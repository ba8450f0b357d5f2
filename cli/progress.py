"""What a run shows while it runs: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from wsikit.pipeline.batch import Observer
    from wsikit.pipeline.inputs import SlideEntry


@contextmanager
def observer(total: int) -> Iterator[Observer]:
    """The observer that suits where the output goes."""
    if not sys.stdout.isatty():
        yield _Lines(total)
        return
    from rich.progress import Progress

    with Progress(*_columns(), refresh_per_second=4) as progress:
        yield _Live(progress, total)


def _columns() -> list[ProgressColumn]:
    from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class TimeLeft(ProgressColumn):
        """Rich's own forgets what is older than half a minute, and a super-tile may take longer."""

        def render(self, task: Task) -> Text:
            return Text(time_left(task.elapsed or 0, task.completed, task.total))

    return [
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        TextColumn("{task.fields[state]}", markup=False),
        TimeElapsedColumn(),
        TimeLeft(),
    ]


def time_left(elapsed: float, done: float, total: float | None) -> str:
    """What remains at the pace so far, in words; empty before the first step and after the last."""
    if not total or not 0 < done < total:
        return ""
    seconds = round(elapsed * (total - done) / done)
    if seconds < 60:
        return f"{seconds} s left"
    minutes = round(seconds / 60)
    return f"{minutes} min left" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min left"


def outcome(entry: SlideEntry, record: dict[str, Any], *, kept: bool) -> str:
    """One line that says how a slide ended."""
    if record["status"] == "failed":
        line = f"{entry.slide_id}: failed ({record['reason']}): {record['message']}"
        return line + (f" -> {record['remedy']}" if record.get("remedy") else "")
    found = ", ".join(f"{count:,} {name}" for name, count in record.get("objects_per_class", {}).items())
    areas = ", ".join(f"{name} {share:.1%}" for name, share in record.get("area_fractions", {}).items())
    scores = ", ".join(f"{name} {score:.3f}" for name, score in record.get("scores", {}).items())
    features = "{patches:,} x {width} features".format(**record["features"]) if "features" in record else ""
    seconds = "kept from an earlier run" if kept else f"{record['seconds']['total']:.1f} s"
    bad = f", {len(record['bad_tiles'])} bad tiles" if record.get("bad_tiles") else ""
    patches = f"{record['patches']:,} patches ({record['tiles']['passed']:,} as they are)" if "tiles" in record else ""
    said = found or areas or scores or features or patches or "nothing found"
    return f"{entry.slide_id}: {record['status']}, {said}{bad}, {seconds}"


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

    def notice(self, text: str) -> None:
        self._say(text)

    def started(self, entry: SlideEntry) -> None:
        self._say(f"{entry.slide_id}: started")

    def progress(self, entry: SlideEntry, done: int, total: int) -> None:
        if total >= 20 and done % (total // 10) == 0 and 0 < done < total:
            self._say(f"{entry.slide_id}: {done} of {total} parts")

    def finished(self, entry: SlideEntry, record: dict[str, Any], *, kept: bool) -> None:
        ended = next(self._ended)
        self._say(f"[{ended}/{self._total}] {outcome(entry, record, kept=kept)}")


class _Live:
    """A line for the run and one for every slide that is running. Called from several threads."""

    def __init__(self, progress: Any, total: int) -> None:
        self._progress = progress
        self._slides, self._ended = total, 0
        self._shares: dict[str, float] = {}
        self._bars: dict[str, Any] = {}
        self._lock = threading.Lock()
        # the bar and the time left are of the slides that are not kept
        self._new = total
        self._all = progress.add_task("slides", total=total, state=f"0 of {total}")

    def notice(self, text: str) -> None:
        from rich.text import Text

        self._progress.console.print(Text(text, style="yellow"), soft_wrap=True)

    def started(self, entry: SlideEntry) -> None:
        name = shortened(entry.slide_id, max(12, min(40, self._progress.console.width - 60)))
        self._bars[entry.slide_id] = self._progress.add_task(name, total=None, state="opening")

    def progress(self, entry: SlideEntry, done: int, total: int) -> None:
        # after its last super-tile a slide is merged and written
        state = f"{done / total:.0%}" if done < total else "writing"
        self._progress.update(self._bars[entry.slide_id], completed=done, total=total, state=state)
        self._advance(entry.slide_id, done / total)

    def finished(self, entry: SlideEntry, record: dict[str, Any], *, kept: bool) -> None:
        from rich.text import Text

        bar = self._bars.pop(entry.slide_id, None)
        if bar is not None:
            self._progress.remove_task(bar)
        style = {"complete": "green", "partial": "yellow"}.get(record["status"], "red")
        self._progress.console.print(Text(outcome(entry, record, kept=kept), style=style), soft_wrap=True)
        with self._lock:
            self._ended += 1
            self._new -= kept
        self._advance(entry.slide_id, 0.0 if kept else 1.0)

    def _advance(self, slide_id: str, share: float) -> None:
        with self._lock:
            self._shares[slide_id] = share
            state = f"{self._ended} of {self._slides}"
            self._progress.update(self._all, completed=sum(self._shares.values()), total=self._new, state=state)


def shortened(name: str, most: int) -> str:
    """At most ``most`` characters; the middle goes, since both ends tell slides apart."""
    if len(name) <= most:
        return name
    head = (most - 1) // 2
    return f"{name[:head]}…{name[head + 1 - most :]}"

"""How far a run is, from what lies in its output folder; nothing is written and nobody is asked."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from wsikit.pipeline.lease import NAME, Found, find
from wsikit.pipeline.report import read_run
from wsikit.pipeline.report.cohort import STATUSES, Problem, problems
from wsikit.pipeline.report.facts import SlideFacts
from wsikit.pipeline.report.folder import RunFacts


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a run works, and what that means for the rest. Slides count by the size of their files."""

    bytes: int
    """Of the slides, and of the done shares of slides, that this run has worked through."""
    seconds: float
    """That it took, wall time: slides side by side are in it."""
    left: int
    """Bytes of what is not done."""

    @property
    def seconds_left(self) -> float:
        """At the pace so far."""
        return self.left * self.seconds / self.bytes


@dataclass(frozen=True, slots=True)
class Status:
    """Of a run."""

    run: RunFacts
    lease: Found | None
    heartbeat_s: float | None
    """Since the holder's last heartbeat, by this machine's clock."""
    alive: bool
    """Whether a run is going on."""
    slides: tuple[SlideFacts, ...]
    """In the run's order, files that are read with another one included."""
    pace: Pace | None
    """None where nothing is left to do, or nothing to judge by."""

    @property
    def counts(self) -> dict[str, int]:
        """Status -> slides, for those that occur."""
        found = Counter(slide.status for slide in self.slides)
        return {name: found[name] for name in (*STATUSES, "skipped") if found[name]}

    @property
    def problems(self) -> list[Problem]:
        """Failed and partial slides by reason."""
        return problems(slide for slide in self.slides if slide.status != "skipped")

    @property
    def all_complete(self) -> bool:
        """Whether there is nothing left to do and nothing failed."""
        return set(self.counts) <= {"complete", "skipped"}

    def of(self, *statuses: str) -> list[SlideFacts]:
        """The slides of these statuses."""
        return [slide for slide in self.slides if slide.status in statuses]


def read_status(out: Path) -> Status:
    """What lies in a run's output folder, judged now. Writes nothing.

    Raises ConfigError (code no_run) where OUT is no output folder of a run.
    """
    lease, now = find(out / NAME), time.time()
    alive = lease is not None and not lease.is_dead(now)
    run = read_run(out)
    slides = tuple(SlideFacts.of(record) for record in run.records)
    heartbeat = None if lease is None else max(0.0, now - lease.beat)
    return Status(run.facts, lease, heartbeat, alive, slides, _pace(run.facts, slides, now if alive else None))


def _pace(run: RunFacts, slides: Sequence[SlideFacts], now: float | None) -> Pace | None:
    """``now`` is None where the run is not going on: it is judged by what it did until its last sign of life."""
    began = _seconds(run.started)
    if began is None:
        return None
    sizes = _sizes(slides)
    done, left, last = 0.0, 0.0, began
    for slide, size in zip(slides, sizes, strict=True):
        share = _share(slide)
        left += (1 - share) * size
        # what an earlier run did says nothing of this one's pace
        if slide.status != "failed" and (_seconds(slide.started) or 0) >= began:
            done += share * size
            last = max(last, _seconds(slide.finished) or began)
    took = (now or last) - began
    return Pace(round(done), took, round(left)) if done > 0 and took > 0 and left >= 1 else None


def _share(slide: SlideFacts) -> float:
    """Of the work on a slide that is done."""
    if slide.status in {"running", "stopped"}:
        return slide.progress.done / slide.progress.total if slide.progress and slide.progress.total else 0.0
    return 0.0 if slide.status == "waiting" else 1.0


def _sizes(slides: Iterable[SlideFacts]) -> list[float]:
    """Bytes of the slides' files; those that cannot be seen from here are like the others."""
    known = [_size(slide) for slide in slides]
    seen = [size for size in known if size is not None]
    usual = sum(seen) / len(seen) if seen else 1.0
    return [usual if size is None else size for size in known]


def _size(slide: SlideFacts) -> int | None:
    if slide.status == "skipped":
        return 0
    if slide.source is not None:
        return slide.source.bytes
    try:
        return Path(slide.path).stat().st_size if slide.path else None
    except (OSError, ValueError):
        return None


def _seconds(text: str) -> float | None:
    """Of an ISO time, since the epoch."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None


def as_json(status: Status) -> dict[str, Any]:
    """All of it, ready for JSON: ``state`` is running, ended, or stopped with ``why``; times are seconds."""
    run, pace = status.run, status.pace
    state = "running" if status.alive else "ended" if run.ended else "stopped"
    return {
        "state": state,
        "why": run.stopped if state == "stopped" else "",
        "command": run.command,
        "started": run.started,
        "holder": status.lease.holder.facts() | {"heartbeat_s": status.heartbeat_s} if status.lease else None,
        "counts": status.counts,
        "all_complete": status.all_complete,
        "slides": [_slide(slide) for slide in status.slides],
        "problems": [
            {
                "reason": problem.code,
                "status": problem.status,
                "cause": problem.cause,
                "remedies": problem.remedies,
                "slides": [slide.slide_id for _, slide in problem.slides],
            }
            for problem in status.problems
        ],
        "pace": None if pace is None else {"bytes": pace.bytes, "seconds": pace.seconds, "bytes_left": pace.left},
        "seconds_left": None if pace is None else pace.seconds_left,
    }


def _slide(slide: SlideFacts) -> dict[str, Any]:
    told = {
        name: getattr(slide, name)
        for name in (
            *("slide_id", "path", "status", "reason", "message", "remedy"),
            *("attempts", "host", "pid", "started", "finished"),
        )
    }
    return told | {"progress": slide.progress.model_dump() if slide.progress else None}

"""What time goes to: wall seconds of the steps of a run, and how busy the stages of the prediction are.

The rule of the bottleneck. While super-tiles are predicted, three stages work: the reader (reading and decoding, and
judging how good patches are), the model (cutting patches and predicting them) and post-processing (what the windows own
is collected and spooled). Each is busy for some share of the seconds that it could have worked. The stage that is busy
longest binds, provided that it is busy for at least half the time: with the stages side by side nothing can be faster
than it, and one after another it has most to give. Where none is, they are balanced. In between a stage waits, for the
others or for the machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Self

BINDS = 0.5
"""Least share of the time that the stage that binds is busy."""


class Clock:
    """Wall seconds per step; what a step takes several times is added up."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._steps: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.add(step, time.perf_counter() - start)

    def add(self, step: str, seconds: float) -> None:
        """Count seconds that were measured elsewhere."""
        self._steps[step] = self._steps.get(step, 0.0) + seconds

    def steps(self) -> dict[str, float]:
        """Step -> seconds."""
        return dict(self._steps)

    def seconds(self) -> dict[str, float]:
        """Step -> seconds to the millisecond, and the total since the clock was made."""
        steps = {**self._steps, "total": time.perf_counter() - self._start}
        return {name: round(value, 3) for name, value in steps.items()}


@dataclass(frozen=True, slots=True)
class Busy:
    """Seconds that stages worked, added up over super-tiles and workers."""

    read: float = 0.0
    model: float = 0.0
    post: float = 0.0
    gpu: float = 0.0
    """Of ``model``: that the GPU worked, by its own clock. 0 without one."""
    wall: float = 0.0
    """That each stage could have worked: from the start to the end of every worker's work."""

    @classmethod
    def of(cls, seconds: Mapping[str, float]) -> Self:
        """From a record; what it lacks is 0."""
        return cls(**{field.name: seconds[field.name] for field in fields(cls) if field.name in seconds})

    @classmethod
    def total(cls, parts: Iterable[Busy]) -> Self:
        """All of them together."""
        listed = [asdict(part) for part in parts]
        return cls(**{field.name: sum(part[field.name] for part in listed) for field in fields(cls)})

    def rounded(self) -> dict[str, float]:
        """For a record, to the millisecond; ``gpu`` only where there is one."""
        return {name: round(value, 3) for name, value in asdict(self).items() if name != "gpu" or value}

    def shares(self) -> dict[str, float]:
        """Stage -> share of the time that it was busy, the busiest first; nothing where no time was taken."""
        stages = {"reader": self.read, "model": self.model, "post-processing": self.post}
        ranked = sorted(stages.items(), key=lambda item: -item[1])
        return {name: seconds / self.wall for name, seconds in ranked} if self.wall else {}

    def bound(self) -> str:
        """The stage that binds: "reader", "model" or "post-processing"; "balanced" where none does.

        Nothing where no time was taken.
        """
        return next((name if share >= BINDS else "balanced" for name, share in self.shares().items()), "")

    def told(self) -> str:
        """How busy each stage was, in words: "reader 97 %, model 61 %, post-processing 3 %"; then the GPU."""
        shares = self.shares() | ({"GPU": self.gpu / self.wall} if self.gpu else {})
        return ", ".join(f"{name} {100 * min(1.0, share):.0f} %" for name, share in shares.items())

    def __str__(self) -> str:
        """In words, such as "reader-bound, GPU 61 % busy"; nothing where no time was taken."""
        bound = self.bound()
        if not bound:
            return ""
        if bound == "balanced":
            return f"balanced, {self.told()} busy"
        name, seconds = ("GPU", self.gpu) if self.gpu else ("model", self.model)
        return f"{bound}-bound, {name} {100 * min(1.0, seconds / self.wall):.0f} % busy"

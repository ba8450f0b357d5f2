"""Slides looked at in child processes that are used again: what a hostile file does to a C library costs its own look.

A child per slide would cost a second and more for each, since it imports what readers need (docs/measured.md); one that
goes from slide to slide costs that once. A slide that kills it is looked at once more with every read in a process
of its own, so that the damage is told tile by tile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from wsikit.config import RunConfig
from wsikit.pipeline.doctor.findings import Diagnosis, Finding
from wsikit.pipeline.inputs import SlideEntry
from wsikit.predictions import Model
from wsikit.slides.isolated import MEMORY, Child, LostChildError, answer_questions

PROGRAM = "import sys; from wsikit.pipeline.doctor.ward import serve; serve(int(sys.argv[1]))"
SECONDS, FULL_SECONDS = 300.0, 7200.0
"""Longest that a look at a slide may take: at a sample of tiles, and at all of them."""
MOST_MEMORY = 2 * MEMORY
"""Most resident bytes of a child: what an isolated reader may take, and as much for a model."""
PATHS = ("path", "mask_path", "roi_path")


class Ward:
    """One child and the slides that it is asked about. Used by one thread at a time.

    Args:
        config: of the run that is planned.
        with_model: whether its model is wanted.
    """

    def __init__(self, config: RunConfig, *, with_model: bool) -> None:
        self._config, self._with_model = config, with_model
        self._child: Child | None = None

    def look(self, entry: SlideEntry, wanted: int | None, seed: int) -> Diagnosis:
        """See ``look_at_slide``; a child that was lost is a finding."""
        seconds = FULL_SECONDS if wanted is None else SECONDS
        try:
            return _diagnosis(self._ask("look", [_told(entry), wanted, seed, False], seconds))
        except LostChildError as lost:
            finding = _lost(lost)
        try:
            second = _diagnosis(self._ask("look", [_told(entry), wanted, seed, True], seconds))
        except LostChildError:
            return Diagnosis(entry.slide_id, str(entry.path), entry.patient, (finding,))
        return replace(second, findings=(finding, *second.findings))

    def measure(self, entry: SlideEntry, seconds: float) -> Mapping[str, float]:
        """See ``forecast.measure``. Raises WsikitError, and LostChildError where it cost the child."""
        measured: Mapping[str, float] = self._ask("measure", [_told(entry), seconds], SECONDS)
        return measured

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.end()
            self._child = None

    def _ask(self, what: str, about: list[Any], seconds: float) -> Any:
        try:
            if self._child is None:
                self._child = Child(MOST_MEMORY, PROGRAM)
                self._child.ask("begin", [self._config.model_dump(mode="json"), self._with_model], seconds)
            return self._child.ask(what, about, seconds)
        except LostChildError:
            self.close()
            raise


def _lost(lost: LostChildError) -> Finding:
    remedy = "copy the file again; a run with --isolate is not hurt by it and says which parts of the slide it cost"
    return Finding(lost.code, "error", f"the file cost the process that looked at it: {lost}", remedy)


def _told(entry: SlideEntry) -> dict[str, Any]:
    """JSON-ready."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in asdict(entry).items()}


def _entry(told: dict[str, Any]) -> SlideEntry:
    return SlideEntry(**told | {key: Path(told[key]) for key in PATHS if told[key] is not None})


def _diagnosis(said: dict[str, Any]) -> Diagnosis:
    findings = tuple(Finding(**finding) for finding in said["findings"])
    return Diagnosis(said["slide_id"], said["path"], said["patient"], findings, said["facts"])


def serve(descriptor: int) -> None:
    """What the child does."""
    # what tifffile thinks of a broken file is in the finding
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    answer_questions(descriptor, _Looking())


class _Looking:
    """The run that is planned, and slides looked at with it in mind."""

    config: RunConfig
    model: Model | None = None

    def __call__(self, what: str, about: list[Any]) -> tuple[Any, Any]:
        answers: dict[str, Callable[..., Any]] = {"begin": self._begin, "look": self._look, "measure": self._measure}
        return answers[what](*about), b""

    def _begin(self, config: dict[str, Any], with_model: bool) -> None:
        from wsikit.pipeline.model import load_model

        self.config = RunConfig.model_validate(config)
        self.model = load_model(self.config) if with_model else None

    def _look(self, told: dict[str, Any], wanted: int | None, seed: int, isolate: bool) -> dict[str, Any]:
        from wsikit.pipeline.doctor.slide import look_at_slide

        config = self.config.model_copy(update={"isolate": True}) if isolate else self.config
        try:
            return asdict(look_at_slide(_entry(told), config, self.model, wanted, seed))
        except Exception as error:  # noqa: BLE001  # one slide must not hurt another; the finding says what happened
            entry = _entry(told)
            return asdict(Diagnosis(entry.slide_id, str(entry.path), entry.patient, (Finding.of(error),)))

    def _measure(self, told: dict[str, Any], seconds: float) -> dict[str, float]:
        from wsikit.pipeline.doctor.forecast import measure

        assert self.model is not None
        return measure(_entry(told), self.config, self.model, seconds)

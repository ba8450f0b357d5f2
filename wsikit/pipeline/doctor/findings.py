"""What is found wrong with a slide: a stable code, how bad it is, and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from wsikit.errors import WsikitError
from wsikit.pipeline.report.cohort import CAUSES
from wsikit.pipeline.state import failure

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""The worst first. error: the slide would fail or lose tiles in a run, or its results would be wrong; warning: look at
it before running; note: good to know."""
TITLES = CAUSES | {
    "blank": "The slide is white all over",
    "companion_as_slide": "The file is a part of another slide",
    "duplicate": "The same slide twice",
    "empty_file": "The file is empty",
    "just_written": "The file changed less than a minute ago",
    "left_out_tiles": "The file leaves out tiles",
    "missing_companion": "A file that belongs to the slide is missing",
    "mpp_against_power": "Resolution and objective power disagree",
    "no_memory": "The machine has too little memory",
    "no_permission": "The file may not be read",
    "no_pyramid": "The slide has only its full resolution",
    "no_tissue": "No tissue was found",
    "orphan_companion": "A slide's folder without the slide's own file",
    "pen": "Pen ink on the slide",
    "renamed": "The results have another name than the file",
    "truncated": "The file was cut short",
    "unknown_format": "A slide format that no reader knows",
    "unusual_mpp": "No usual scanner has this resolution",
}
"""Code -> what it means; those of ``CAUSES`` are the reasons for which a run fails."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or good to know."""

    code: str
    """A key of ``TITLES``, lower_snake_case."""
    severity: Severity
    message: str
    """What was seen, a sentence."""
    remedy: str = ""
    """What to do about it."""

    @property
    def title(self) -> str:
        """What the code means."""
        return TITLES.get(self.code, self.code.replace("_", " "))

    @classmethod
    def of(cls, error: Exception) -> Self:
        """What a run would record of an error."""
        said = failure(error)
        return cls(said["reason"], "error", said["message"], said["remedy"])


def problem(error: WsikitError, severity: Severity = "error") -> Finding:
    """An error of wsikit as a finding."""
    return Finding(error.code, severity, str(error), error.remedy)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is to be said of one slide."""

    slide_id: str
    path: str
    patient: str | None = None
    findings: tuple[Finding, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """JSON-ready; what is not known is left out. ``bytes`` of the slide's own file, ``reader``, ``vendor``, ``width``
    and ``height`` (level-0 px), ``levels``, ``mpp`` (um per px), ``mpp_source``, ``power`` (of the objective),
    ``tiles``, ``tiles_seen``, ``tiles_bad``, ``tissue_share`` (of the plane), ``tissue_mm2``, ``windows`` and
    ``supertiles`` of the model, ``seconds`` (open, tissue, tiles)."""
    forecast: Mapping[str, float] = field(default_factory=dict)
    """What a run would need for the slide: ``seconds`` of one process, of them ``alone_seconds`` that
    processes cannot share (opening, tissue, ``prepare``, merging), ``bytes`` of outputs, ``spool_bytes`` on the
    disk of the outputs while it runs, ``memory_bytes`` of the process that works on it. Empty where not known."""

    @property
    def verdict(self) -> str:
        """The worst severity, or "ok"."""
        return worst(self.findings)

    def record(self) -> dict[str, Any]:
        """JSON-ready."""
        return {**asdict(self), "verdict": self.verdict}


def worst(findings: Iterable[Finding]) -> str:
    """The worst severity among findings, or "ok"."""
    found = {finding.severity for finding in findings}
    return next((severity for severity in SEVERITIES if severity in found), "ok")


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The worst first; each once."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda finding: SEVERITIES.index(finding.severity)))

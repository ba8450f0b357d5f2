"""What ``slide.json`` says of one slide, checked, with what follows from it. A record may lack almost everything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from wsikit.pipeline.busy import Busy
from wsikit.pipeline.lettering import printable

STAGES = ("open", "tissue", "prepare", "predict", "merge")
"""In the order of their happening; others come after them."""
DONE = frozenset({"complete", "partial"})
"""Slides that have results."""
BAD_RECORD = "bad_record"
FLAG_SHARE = 0.2
"""A quality flag on more than this share of a slide's patches marks the slide: a fifth of what was looked at."""

Text = Annotated[str, PlainValidator(str)]
"""Any text, that of file names which are no Unicode included."""
Color = tuple[int, int, int]


class _Part(BaseModel):
    """Null is as good as missing, unknown keys are passed over, NaN is refused."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, values: Any) -> Any:
        return {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values


class ReaderFacts(_Part):
    """What read the slide."""

    name: Text = ""
    vendor: Text = ""


class LabelFacts(_Part):
    """A class of the model."""

    name: Text
    color: Color = (128, 128, 128)
    background: bool = False


class ModelFacts(_Part):
    """What made the results; what else the record says of it is shown as it is."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: Text = ""
    labels: tuple[LabelFacts, ...] = ()


class BadTileFacts(_Part):
    """A tile of the file that cannot be decoded."""

    level: int
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in level-0 pixels."""


class QualityFacts(_Part):
    """What quality control saw of the slide's patches."""

    patches: int = 0
    """Looked at."""
    dropped: int = 0
    """Not run, because of ``filter``."""
    filter: Text = ""
    flags: dict[Text, int] = Field(default_factory=dict)
    """Artefact -> patches that show it."""
    measures: dict[Text, tuple[float, float, float, float, float]] = Field(default_factory=dict)
    """Measure -> its 5th, 25th, 50th, 75th and 95th percentile over the patches."""

    def shares(self) -> dict[str, float]:
        """Flag -> share of the patches."""
        return {name: count / self.patches for name, count in self.flags.items()} if self.patches else {}


class OutputFacts(_Part):
    """A file or folder with results."""

    bytes: int
    sha256: Text = ""


class SourceFacts(_Part):
    """What the slide's file is known by; the rest of it is for comparison alone."""

    bytes: int


class ProgressFacts(_Part):
    """How far work on a slide was when its record was written."""

    done: int
    total: int
    """Parts: super-tiles, or rows of patches."""


class FeatureFacts(_Part):
    """What an encoder wrote."""

    patches: int = 0
    width: int = 0


class SlideFacts(_Part):
    """A record. Areas are um^2 or, where the name says so, mm^2; times are seconds."""

    slide_id: Text
    path: Text = ""
    patient: Text = ""
    status: Text
    reason: Text = ""
    message: Text = ""
    remedy: Text = ""
    warnings: tuple[Text, ...] = ()
    reader: ReaderFacts = ReaderFacts()
    width: int | None = None
    height: int | None = None
    mpp: float | None = None
    mpp_source: Text = ""
    bounds_offset: tuple[float, float] = (0, 0)
    model: ModelFacts = ModelFacts()
    bound: dict[Text, Any] = Field(default_factory=dict)
    versions: dict[Text, Any] = Field(default_factory=dict)
    patches: int | None = None
    objects: int | None = None
    objects_per_class: dict[Text, int] = Field(default_factory=dict)
    density_count: float | None = None
    """Objects by the density map."""
    area_fractions: dict[Text, float] = Field(default_factory=dict)
    areas_mm2: dict[Text, float] = Field(default_factory=dict)
    mean_confidence: float | None = None
    """Of a class map."""
    low_confidence: float | None = None
    """Share of what was analysed."""
    tumor_stroma_ratio: float | None = None
    scores: dict[Text, float] = Field(default_factory=dict)
    features: FeatureFacts | None = None
    quality: QualityFacts | None = None
    seam_conflicts: int | None = None
    tissue_um2: float | None = None
    bad_tiles: tuple[BadTileFacts, ...] | None = None
    seconds: dict[Text, float] = Field(default_factory=dict)
    busy: dict[Text, float] = Field(default_factory=dict)
    """What ``Busy`` holds."""
    peak_rss_mb: float | None = None
    predicted_mb: float | None = None
    """Of the same processes before the run."""
    outputs: dict[Text, OutputFacts] = Field(default_factory=dict)
    source: SourceFacts | None = None
    host: Text = ""
    pid: int | None = None
    attempts: int = 1
    started: Text = ""
    finished: Text = ""
    progress: ProgressFacts | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> SlideFacts:
        """A record whose values are not what they should be becomes a failed slide that says so."""
        wrong = problem(record)
        return cls.model_validate(bad_record(record, wrong) if wrong else record)

    @property
    def done(self) -> bool:
        """Whether there are results."""
        return self.status in DONE

    @property
    def tissue_mm2(self) -> float | None:
        """Area that was looked at."""
        return None if self.tissue_um2 is None else self.tissue_um2 / 1e6

    @property
    def found(self) -> int | None:
        """Objects of the model's classes; None where the model looks for none."""
        other = self.area_fractions or self.scores or self.features
        return None if other and not self.objects_per_class else self.objects

    @property
    def per_mm2(self) -> float | None:
        """Objects per mm^2 of tissue."""
        return self.density(self.found)

    def density(self, count: float | None) -> float | None:
        """So many objects per mm^2 of tissue; None without tissue."""
        return count / self.tissue_mm2 if self.tissue_mm2 and count is not None else None

    def area_mm2(self, name: str) -> float | None:
        """Of a class of the map; records of before it was written have the share and the tissue."""
        share = self.area_fractions.get(name)
        known = None if share is None or self.tissue_mm2 is None else share * self.tissue_mm2
        return self.areas_mm2.get(name, known)

    @property
    def total_seconds(self) -> float | None:
        """From opening the file to its outcome."""
        return self.seconds.get("total")

    def stages(self) -> dict[str, float]:
        """Stage -> seconds, in the order of their happening, without the total."""
        names = sorted(self.seconds, key=lambda name: STAGES.index(name) if name in STAGES else len(STAGES))
        return {name: self.seconds[name] for name in names if name != "total"}

    def stages_busy(self) -> Busy:
        """How busy reader, model and post-processing were in ``predict``."""
        return Busy.of(self.busy)

    def marked_flags(self) -> dict[str, float]:
        """Flag -> share of patches, of those that cover more than ``FLAG_SHARE`` of the slide; the largest first."""
        shares = self.quality.shares() if self.quality else {}
        return {name: share for name, share in ranked(shares).items() if share > FLAG_SHARE}


def ranked(values: Mapping[str, float]) -> dict[str, float]:
    """The largest first, equal ones in their order."""
    return dict(sorted(values.items(), key=lambda item: -item[1]))


def problem(record: Mapping[str, Any]) -> str:
    """What is wrong with a record, or nothing."""
    try:
        SlideFacts.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        return printable(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")
    return ""


def bad_record(known: Mapping[str, Any], problem: str) -> dict[str, Any]:
    """The record of a slide whose slide.json is of no use."""
    return {
        "slide_id": str(known.get("slide_id", "")),
        "path": str(known.get("path") or ""),
        "status": "failed",
        "reason": BAD_RECORD,
        "message": f"slide.json cannot be used: {problem}",
        "remedy": "run the same command again: it does such a slide anew",
    }

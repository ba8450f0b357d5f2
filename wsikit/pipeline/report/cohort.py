"""What the slides of a run say together: totals, distributions, quality, time and problems. Numbers only, no markup.

Sums and distributions are of the slides that have results. A density or share of the cohort is pooled (all objects over
all tissue, so that a large slide counts for more); mean, median and range are over slides, each counting once.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from wsikit.pipeline.busy import Busy
from wsikit.pipeline.report.facts import FLAG_SHARE, STAGES, Color, SlideFacts, ranked
from wsikit.pipeline.report.formats import duration, sentence

ALWAYS_SHOWN = ("complete", "partial", "failed")
UNFINISHED = ("running", "stopped", "waiting")
"""Slides without an outcome: worked on now, when the run ended before its time, or not begun."""
STATUSES = (*ALWAYS_SHOWN, *UNFINISHED)
NO_COLOR: Color = (128, 128, 128)


@dataclass(frozen=True, slots=True)
class Point:
    """A slide's value in a distribution."""

    index: int
    """Number of the slide in the report, from 1."""
    name: str
    value: float


@dataclass(frozen=True, slots=True)
class Measure:
    """A class (or all objects) over the cohort: objects and their density, or an area and its share of the tissue."""

    name: str
    color: Color
    total: float
    """Objects, or mm^2."""
    pooled: float | None
    """Objects per mm^2 of all tissue, or share of all tissue; None without tissue."""
    points: tuple[Point, ...]
    """Density or share of each slide that has tissue."""
    background: bool = False
    """Whether it is what the model calls none of its classes."""

    @property
    def values(self) -> list[float]:
        """Of the slides."""
        return [point.value for point in self.points]

    @property
    def mean(self) -> float | None:
        """Over slides."""
        return statistics.fmean(self.values) if self.points else None

    @property
    def median(self) -> float | None:
        """Over slides."""
        return statistics.median(self.values) if self.points else None

    @property
    def low(self) -> float | None:
        """The lowest slide's."""
        return min(self.values, default=None)

    @property
    def high(self) -> float | None:
        """The highest slide's."""
        return max(self.values, default=None)


Numbered = Sequence[tuple[int, SlideFacts]]


def numbered(slides: Iterable[SlideFacts]) -> list[tuple[int, SlideFacts]]:
    """Those that have results, with their number in the report."""
    return [(index, slide) for index, slide in enumerate(slides, 1) if slide.done]


def tissue_mm2(slides: Iterable[SlideFacts]) -> float:
    """Tissue of all of them that have results."""
    return sum(slide.tissue_mm2 or 0.0 for slide in slides if slide.done)


def outcomes(slides: Sequence[SlideFacts]) -> dict[str, int]:
    """Status -> slides; what a finished run has none of is left out unless it is one of the three outcomes."""
    counts = {status: sum(slide.status == status for slide in slides) for status in STATUSES}
    return {status: count for status, count in counts.items() if count or status in ALWAYS_SHOWN}


def object_measures(slides: Sequence[SlideFacts]) -> list[Measure]:
    """All objects first, then each class where there are several; nothing where no model looked for objects."""
    done = [(index, slide) for index, slide in numbered(slides) if slide.found is not None]
    if not done:
        return []
    colors = label_colors(slides)
    classes = names(slide.objects_per_class for _, slide in done)
    title = classes[0] if len(classes) == 1 else "All objects"
    single = colors.get(classes[0], NO_COLOR) if len(classes) == 1 else NO_COLOR
    whole = _density_measure(title, single, done, lambda slide: slide.found or 0)
    if len(classes) < 2:
        return [whole]
    return [whole, *(_class_measure(name, colors.get(name, NO_COLOR), done) for name in classes)]


def _class_measure(name: str, color: Color, done: Numbered) -> Measure:
    return _density_measure(name, color, done, lambda slide: slide.objects_per_class.get(name, 0))


def _density_measure(name: str, color: Color, done: Numbered, count: Callable[[SlideFacts], int]) -> Measure:
    with_tissue = [(index, slide) for index, slide in done if slide.tissue_mm2]
    area = sum(slide.tissue_mm2 or 0.0 for _, slide in with_tissue)
    points = tuple(Point(i, slide.slide_id, slide.density(count(slide)) or 0.0) for i, slide in with_tissue)
    inside = sum(count(slide) for _, slide in with_tissue)
    return Measure(name, color, sum(count(slide) for _, slide in done), inside / area if area else None, points)


def area_measures(slides: Sequence[SlideFacts]) -> list[Measure]:
    """Each class of the score maps: mm^2, and its share of what was analysed."""
    done = [(index, slide) for index, slide in numbered(slides) if slide.area_fractions and slide.tissue_mm2]
    colors = label_colors(slides)
    backgrounds = {label.name for _, slide in done for label in slide.model.labels if label.background}
    area = sum(slide.area_mm2(name) or 0.0 for _, slide in done for name in slide.area_fractions)
    found = []
    for name in names(slide.area_fractions for _, slide in done):
        points = tuple(Point(i, slide.slide_id, slide.area_fractions.get(name, 0.0)) for i, slide in done)
        total = sum(slide.area_mm2(name) or 0.0 for _, slide in done)
        found.append(
            Measure(
                name, colors.get(name, NO_COLOR), total, total / area if area else None, points, name in backgrounds
            )
        )
    return found


def label_colors(slides: Iterable[SlideFacts]) -> dict[str, Color]:
    """Class -> colour, of all models of the run."""
    return {label.name: label.color for slide in slides for label in slide.model.labels}


def names(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    """The keys that occur, in order of their first appearance."""
    return list(dict.fromkeys(name for mapping in mappings for name in mapping))


def top_scores(slides: Iterable[SlideFacts]) -> dict[str, int]:
    """Label -> slides for which a bag model gives it the highest score, the most frequent first."""
    best = [next(iter(ranked(slide.scores))) for slide in slides if slide.done and slide.scores]
    return {name: int(count) for name, count in ranked({name: best.count(name) for name in best}).items()}


@dataclass(frozen=True, slots=True)
class Patient:
    """The slides of one patient."""

    name: str
    slides: tuple[SlideFacts, ...]
    tissue_mm2: float
    objects: tuple[Measure, ...]
    areas: tuple[Measure, ...]

    @property
    def done(self) -> int:
        """Slides with results."""
        return sum(slide.done for slide in self.slides)


def patients(slides: Iterable[SlideFacts]) -> list[Patient]:
    """In the order of their first slides; slides of no patient are left out."""
    grouped: dict[str, list[SlideFacts]] = {}
    for slide in slides:
        if slide.patient:
            grouped.setdefault(slide.patient, []).append(slide)
    return [
        Patient(name, tuple(own), tissue_mm2(own), tuple(object_measures(own)), tuple(area_measures(own)))
        for name, own in grouped.items()
    ]


@dataclass(frozen=True, slots=True)
class Flag:
    """An artefact over the cohort."""

    name: str
    patches: int
    share: float
    """Of all patches that were looked at."""
    slides: int
    """On which it covers more than ``FLAG_SHARE`` of the patches."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Quality control over the cohort."""

    slides: int
    patches: int
    dropped: int
    filters: tuple[str, ...]
    flags: tuple[Flag, ...]
    limit: float = FLAG_SHARE


def quality(slides: Iterable[SlideFacts]) -> Quality | None:
    """What the records say of quality, or None where none says anything."""
    seen = [slide for slide in slides if slide.quality]
    facts = [slide.quality for slide in seen if slide.quality]
    if not facts:
        return None
    patches = sum(item.patches for item in facts)
    flags = [
        Flag(name, count, count / patches if patches else 0.0, sum(name in slide.marked_flags() for slide in seen))
        for name in names(item.flags for item in facts)
        for count in [sum(item.flags.get(name, 0) for item in facts)]
    ]
    filters = tuple(dict.fromkeys(item.filter for item in facts if item.filter))
    return Quality(len(facts), patches, sum(item.dropped for item in facts), filters, tuple(flags))


@dataclass(frozen=True, slots=True)
class Stage:
    """A step of the work, over all slides."""

    name: str
    seconds: float
    share: float
    """Of all stages."""
    median: float
    """Over the slides that came to it."""


MEANING = {
    "open": "opening the file",
    "tissue": "finding tissue on a coarse level",
    "prepare": "looking at samples of the slide, to set what is constant on it",
    "predict": "reading patches and the model",
    "merge": "joining what was found, writing the files and the picture",
    "patches": "decoding, encoding and writing patches",
    "picture": "drawing the overview",
}
"""What a stage does."""
ADVICE = {
    "open": "slides on a local disk would help; more workers would not",
    "tissue": "slides with coarse pyramid levels, or masks in the manifest, would help; more workers would not",
    "prepare": "slides on a fast disk would help; more workers would not",
    "predict": "more workers (--num-workers) help while there are idle cores and the disk keeps up",
    "patches": "more threads (--num-workers) help while there are idle cores and the disk keeps up",
    "picture": "nothing needs to be done: it is the same for any number of patches",
    "merge": "one process merges for all: a fast disk or fewer outputs (--format) would help, more workers would not",
}
"""What would make a stage shorter."""
DOMINANT = 0.5
"""From this share of the time on, a stage is called the bottleneck."""


def stages(slides: Iterable[SlideFacts]) -> list[Stage]:
    """Seconds of each stage added up over the slides, in the order of their happening."""
    found = [slide.stages() for slide in slides]
    order = sorted(names(found), key=lambda name: STAGES.index(name) if name in STAGES else len(STAGES))
    spent = {name: [seconds[name] for seconds in found if name in seconds] for name in order}
    whole = sum(map(sum, spent.values()))
    return [
        Stage(name, sum(values), sum(values) / whole if whole else 0.0, statistics.median(values))
        for name, values in spent.items()
    ]


def bottleneck(found: Sequence[Stage]) -> str:
    """Which stage takes the time and what would help, in words; nothing where no time was taken."""
    by_share = sorted(found, key=lambda stage: -stage.share)
    if not by_share or not by_share[0].seconds:
        return ""
    first = by_share[0]
    said = f"The bottleneck is {_told(first)}"
    if round(first.share, 2) < DOMINANT:  # as it is shown
        second = by_share[1]
        said = f"No stage dominates: the longest is {_told(first)}; next comes {second.name}, {_percent(second)}"
    helps = ADVICE.get(first.name)
    return sentence(said) + (f" For {first.name}, {helps}." if helps else "")


BINDING = {
    "reader": "Slides on a faster disk and more workers (--num-workers) would help; a faster model would not.",
    "model": "More workers (--num-workers) while cores are idle, or a GPU for a network, help; a faster disk does not.",
    "GPU": "A shorter --precision, a larger --batch-size or a faster GPU would help; a faster disk would not.",
    "post-processing": "More workers (--num-workers) and a fast disk for the output folder would help.",
    "balanced": "More workers (--num-workers) would help while cores are idle.",
}
"""What would help where a stage of the prediction binds."""


def busy(slides: Iterable[SlideFacts]) -> Busy:
    """Of all slides together."""
    return Busy.total(slide.stages_busy() for slide in slides)


def binding(found: Busy) -> str:
    """Which stage of the prediction binds and what would help, in words; nothing where no time was taken."""
    bound = found.bound()
    if not bound:
        return ""
    told = "" if bound == "balanced" else f" ({found.told()} of the time)"
    return f"Within predict: {found}{told}. {BINDING['GPU' if bound == 'model' and found.gpu else bound]}"


def _percent(stage: Stage) -> str:
    return f"{100 * stage.share:.0f} %"


def _told(stage: Stage) -> str:
    meaning = f" ({MEANING[stage.name]})" if stage.name in MEANING else ""
    return f"{stage.name}{meaning}: {_percent(stage)} of the time, {duration(stage.seconds)}"


CAUSES = {
    "absurd_mpp": "The resolution in the file cannot be true",
    "anisotropic_mpp": "Pixels are not square",
    "bad_annotations": "The annotation file cannot be used",
    "bad_config": "The configuration does not fit the slide",
    "bad_header": "What the file says of itself cannot be true",
    "bad_mask": "The tissue mask does not fit the slide",
    "bad_model": "The model cannot work on the slide",
    "bad_predictions": "The model broke its contract",
    "bad_record": "The record of the slide is lost",
    "bad_tiles": "Parts of the file cannot be decoded",
    "cannot_pass": "The slide has no tiles that could be patches as they are",
    "foreign_files": "Files of somebody else are in the way",
    "id_taken": "Results of another slide have the same slide id",
    "internal": "An error of wsikit",
    "invalid_geometry": "An outline of the annotations crosses itself",
    "io_error": "Reading or writing failed",
    "missing_coords": "No coordinates were given for the slide",
    "missing_mpp": "The file does not say its resolution",
    "missing_roi": "No region of interest was given for the slide",
    "no_annotations": "The annotation file is empty",
    "no_gpu_memory": "The GPU has too little memory for the model",
    "no_patches": "The file of coordinates cannot be used",
    "no_space": "The disk is full",
    "not_a_file": "There is no such file",
    "not_brightfield": "Not a brightfield slide",
    "other_slide": "The coordinates are of another slide",
    "outside_slide": "The annotations lie outside the slide",
    "predictor_error": "The model raised an error",
    "reader_crash": "The file crashed its reader",
    "reader_memory": "The file took its reader more memory than is allowed",
    "reader_timeout": "The reader hung on the file",
    "resolution_unavailable": "The slide is coarser than the model needs",
    "slide_changed": "The file changed while it was read",
    "too_large": "The image is too large to be read whole",
    "unknown_class": "The annotations do not have the class",
    "unreadable": "No reader opens the file",
    "unreadable_pixels": "No pixel can be decoded",
    "unsupported_pixels": "Not an 8-bit RGB image",
    "worker_crash": "The worker process crashed on the slide",
    "worker_lost": "A worker process died",
    "worker_memory": "The slide took more memory than is allowed",
    "worker_timeout": "The slide took longer than a task may",
    "wrong_mpp": "The slide's resolution is not the model's",
}
"""Reason code -> what it means; others are shown as they are."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Slides that ended for the same reason."""

    code: str
    slides: tuple[tuple[int, SlideFacts], ...]
    """With their number in the report."""

    @property
    def cause(self) -> str:
        """In words."""
        return CAUSES.get(self.code, self.code.replace("_", " "))

    @property
    def status(self) -> str:
        """The worst outcome among the slides."""
        return "failed" if any(slide.status == "failed" for _, slide in self.slides) else "partial"

    @property
    def remedies(self) -> list[str]:
        """What to do, each advice once."""
        return list(dict.fromkeys(sentence(slide.remedy) for _, slide in self.slides if slide.remedy))


def problems(slides: Iterable[SlideFacts]) -> list[Problem]:
    """Slides that failed or are partial, grouped by reason: failures first, the most frequent reason first."""
    grouped: dict[str, list[tuple[int, SlideFacts]]] = {}
    for index, slide in enumerate(slides, 1):
        if slide.status not in {"complete", *UNFINISHED}:
            grouped.setdefault(slide.reason or slide.status, []).append((index, slide))
    found = [Problem(code, tuple(own)) for code, own in grouped.items()]
    return sorted(found, key=lambda problem: (problem.status != "failed", -len(problem.slides)))


def warnings(slides: Iterable[SlideFacts]) -> dict[str, list[tuple[int, SlideFacts]]]:
    """Warning -> slides that have it, with their number; the most frequent first."""
    grouped: dict[str, list[tuple[int, SlideFacts]]] = {}
    for index, slide in enumerate(slides, 1):
        for text in dict.fromkeys(slide.warnings):
            grouped.setdefault(text, []).append((index, slide))
    return dict(sorted(grouped.items(), key=lambda item: -len(item[1])))

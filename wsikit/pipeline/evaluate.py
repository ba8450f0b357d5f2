"""A model measured against what experts said: every image run as in a real run, scored, and all of them together."""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import fmean, median, pstdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsikit.annotations.annotations import summed
from wsikit.atomic import output_errors, remove, replace_file
from wsikit.errors import ConfigError
from wsikit.metrics import bin_counts, quadratic_weighted_kappa, quartile_edges
from wsikit.pipeline.examples import Example, draw_examples, example_of
from wsikit.pipeline.run import run
from wsikit.pipeline.scores import (
    CLASSES,
    IOU,
    Comparison,
    Scores,
    Settings,
    compare,
    found_by,
    not_computable,
    of_classes,
    sink_for,
)
from wsikit.pipeline.state import digest, failure, finite, model_card, versions
from wsikit.pipeline.truth import Pair, find_pairs, read_truth
from wsikit.pipeline.workers import bounded
from wsikit.pipeline.workers.opening import open_workers
from wsikit.predictions import Model, Predictor
from wsikit.predictors.files import dumps, loads_once
from wsikit.slides import open_slide
from wsikit.tissue import TissueMask

RANKED_BY = ("object_f1", "detection_f1", "miou")
"""The first of these that there is says which images are best and worst."""
EXAMPLES = 4
"""Best and worst images that are drawn, each."""
LOWER_IS_BETTER = frozenset({"count_mae", "localisation_um"})
TRIVIAL = {
    "dice": "calls everything foreground (dice)",
    "count_mae": "always says the mean count (count_mae, count_kappa)",
    "count_kappa": "always says the mean count (count_mae, count_kappa)",
    "miou": "always says the commonest class (IoU, accuracy)",
    "fwiou": "always says the commonest class (IoU, accuracy)",
    "pixel_accuracy": "always says the commonest class (IoU, accuracy)",
    "iou[]": "always says the commonest class (IoU, accuracy)",
    "dice[]": "always says the commonest class (IoU, accuracy)",
}
"""Metric, [] for each class -> the lazy model beside which it stands; for others it is the one that finds nothing."""


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What became of one image."""

    slide_id: str
    path: Path
    status: str
    """complete; partial (tiles of the file cannot be decoded); failed; skipped (no truth beside it)."""
    reason: str = ""
    """Stable code of why it failed or was skipped."""
    message: str = ""
    remedy: str = ""
    truth: str = ""
    """Name of the truth's file."""
    mpp: float = math.nan
    """Micrometres per level-0 pixel."""
    size: tuple[int, int] = (0, 0)
    """(width, height) of level 0."""
    comparison: Comparison | None = None
    missing: dict[str, str] = field(default_factory=dict)
    """Group of metrics -> why it cannot be computed."""
    notes: tuple[str, ...] = ()
    """What of the truth was left out or changed."""
    example: Example | None = None
    seconds: float = 0.0

    @property
    def values(self) -> dict[str, float]:
        """Metric -> value."""
        return self.comparison.scores.values() if self.comparison else {}

    @property
    def rank(self) -> float:
        """What best and worst are decided by; NaN where nothing of the kind was computed."""
        values = self.values
        return next((values[name] for name in RANKED_BY if name in values), math.nan)


@dataclass(frozen=True, slots=True)
class Summary:
    """One metric over all images."""

    pooled: float
    """Of all objects or pixels together."""
    mean: float
    """Over the images for which the metric is defined, as are the next four."""
    median: float
    std: float
    """Standard deviation over images (of this population, not of a sample)."""
    minimum: float
    maximum: float
    images: int
    """For how many images it is defined."""
    trivial: float
    """Pooled value of a model that does nothing."""
    trivial_model: str
    """What that model does."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All images, and what they come to."""

    images: tuple[ImageResult, ...]
    settings: Settings
    model: dict[str, Any]
    """The model's card."""
    data: str
    command: str
    started: str
    seconds: float

    @property
    def scored(self) -> list[ImageResult]:
        """Those with figures."""
        return [image for image in self.images if image.comparison]

    @property
    def all_complete(self) -> bool:
        """Whether nothing failed: exit code 0 rather than 3."""
        return all(image.status in {"complete", "skipped"} for image in self.images)

    @property
    def missing(self) -> dict[str, str]:
        """Group of metrics that no image has -> why."""
        groups = [image.missing for image in self.scored]
        return {name: why for name, why in (groups[0] if groups else {}).items() if all(name in g for g in groups)}

    @property
    def notes(self) -> list[str]:
        """What of the truth was left out or changed, over all images."""
        return summed({image.slide_id: image.notes for image in self.images})

    @property
    def count_edges(self) -> tuple[float, ...]:
        """Edges of the bins of counts: the quartiles of the true counts of these images."""
        counts = self._counts()
        return quartile_edges(counts[:, 0]) if len(counts) else ()

    def _counts(self) -> NDArray[np.int64]:
        """(N, 2) true and found counts."""
        known = [image.comparison.counts for image in self.scored if image.comparison and image.comparison.counts]
        return np.array(known, np.int64).reshape(-1, 2)

    def metrics(self) -> dict[str, Summary]:
        """Metric -> its figures over all images, in the order in which they are shown."""
        compared = [image.comparison for image in self.scored if image.comparison]
        pooled = sum((item.scores for item in compared), Scores())
        trivial = sum((item.trivial for item in compared), Scores()).values() | _majority(pooled)
        rows = [image.values for image in self.scored]
        found = {}
        for name, value in pooled.values().items():
            found[name] = _summary(value, [row[name] for row in rows if name in row], trivial.get(name, math.nan), name)
        counts = self._counts()
        if len(counts):
            error = float(np.abs(counts[:, 0] - counts[:, 0].mean()).mean())
            found["count_mae"] = replace(found["count_mae"], trivial=error)
            found["count_kappa"] = _summary(self._kappa(counts), [], 0.0, "count_kappa")
        return found

    def _kappa(self, counts: NDArray[np.int64]) -> float:
        edges = self.count_edges
        true, found = bin_counts(counts[:, 0], edges), bin_counts(counts[:, 1], edges)
        return quadratic_weighted_kappa(true, found, len(edges) + 1)


def _summary(pooled: float, values: Sequence[float], trivial: float, name: str) -> Summary:
    known = [value for value in values if not math.isnan(value)]
    spread = (fmean(known), median(known), pstdev(known), min(known), max(known)) if known else (math.nan,) * 5
    kind, of_class, _ = name.partition("[")
    model = TRIVIAL.get(f"{kind}[]" if of_class else kind, "finds nothing")
    return Summary(pooled, *spread, len(known), trivial, model)


def _majority(pooled: Scores) -> dict[str, float]:
    """The figures of calling every pixel the class that is commonest in the truth."""
    if pooled.confusion is None:
        return {}
    lazy = np.zeros_like(pooled.confusion)
    true = pooled.confusion.sum(axis=1)
    lazy[:, int(true.argmax())] = true
    return Scores({}, lazy, pooled.class_names).values()


@dataclass(frozen=True, slots=True)
class _Job:
    """What all images share."""

    predictor: bytes
    """Pickled by ``predictors.files``, so that a predictor of a user's file reaches workers."""
    settings: Settings


def evaluate(
    predictor: Model,
    data: str | Path,
    *,
    settings: Settings | None = None,
    limit: int | None = None,
    num_workers: int = 1,
    out: Path | None = None,
    command: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Run a model over images that have their truth beside them and compare the two at level 0.

    Every image goes through ``run``, all of it as tissue, so that windows, seams and coordinates are those of a real
    run. An image that fails costs only itself.

    Args:
        predictor: not yet bound.
        data: folder (searched recursively), pattern, one image or manifest; truth is found by its name, see
            ``wsikit.pipeline.truth``.
        settings: radius, resolution, meaning of masks.
        limit: only the first so many images.
        num_workers: processes, one image each at a time.
        out: folder for metrics.csv, metrics.json and examples.png; by default nothing is written.
        command: the command line, for metrics.json.
        progress: called with (images done, images in all).

    Raises:
        ConfigError: no images, or a model of bags, which says nothing of places that truth could be held against.
        AnnotationError: code no_truth where none of them has truth.
        OutputError: ``out`` cannot be written.
    """
    if not isinstance(predictor, Predictor):
        raise ConfigError(
            f"the model {predictor.name!r} scores whole bags of patches; truth beside images is of objects, points or "
            "areas: give a model that finds those"
        )
    settings, clock = settings or Settings(), time.perf_counter()
    started = datetime.now(UTC).isoformat(timespec="seconds")
    pairs = find_pairs(data, out)[:limit]
    job = _Job(dumps(predictor), settings)
    results: dict[int, ImageResult] = {}
    with open_workers("local", slots=num_workers) as workers:
        for _, future in bounded(workers, partial(_evaluate_one, job), enumerate(pairs)):
            index, result = future.result()
            results[index] = result
            _forget_examples(results)
            if progress:
                progress(len(results), len(pairs))
    images = _of_known_classes([results[index] for index in sorted(results)])
    card = model_card(predictor)
    card["hash"] = digest(card)
    evaluation = Evaluation(images, settings, card, str(data), command, started, time.perf_counter() - clock)
    if out is not None:
        write_evaluation(evaluation, out)
    return evaluation


def _of_known_classes(results: Sequence[ImageResult]) -> tuple[ImageResult, ...]:
    """With figures of those classes only that some image's truth has."""
    known = frozenset[str]().union(*(one.comparison.classes for one in results if one.comparison))
    return tuple(
        replace(one, comparison=of_classes(one.comparison, known)) if one.comparison else one for one in results
    )


def _forget_examples(results: dict[int, ImageResult]) -> None:
    """Keep pictures of the best and worst images only, so that memory does not grow with their number."""
    drawn = sorted((k for k, result in results.items() if result.example), key=lambda k: (results[k].rank, k))
    for index in drawn[EXAMPLES:-EXAMPLES]:
        results[index] = replace(results[index], example=None)


def _evaluate_one(job: _Job, numbered: tuple[int, Pair]) -> tuple[int, ImageResult]:
    """One image to its result, whatever happens."""
    index, pair = numbered
    entry, clock = pair.entry, time.perf_counter()
    base = ImageResult(entry.slide_id, entry.path, "complete", truth=", ".join(path.name for path in pair.truth))
    if not pair.truth:
        return index, replace(base, status="skipped", reason="no_truth", message="no truth beside it")
    try:
        result = _scored(job, pair, base)
    except Exception as error:  # noqa: BLE001  # one image must not hurt another; its row says what happened
        why = failure(error)
        result = replace(
            base, status="failed", reason=why["reason"], message=why["message"], remedy=why["remedy"], example=None
        )
    return index, replace(result, seconds=time.perf_counter() - clock)


def _scored(job: _Job, pair: Pair, base: ImageResult) -> ImageResult:
    entry, settings = pair.entry, job.settings
    predictor: Predictor = loads_once(job.predictor)
    with open_slide(entry.path, entry.mpp or settings.mpp_override) as slide:
        truth = read_truth(pair.truth, slide)
        missing = not_computable(truth, predictor)
        sink = sink_for(predictor)
        report = run(slide, predictor, sink, mask=TissueMask.whole(slide), slide_id=entry.slide_id)
        found = found_by(predictor, sink)
        comparison = compare(truth, found, slide.plane(slide.mpp), settings, missing)
        result = replace(
            base,
            status=report.status,
            mpp=slide.mpp,
            size=(slide.width, slide.height),
            comparison=comparison,
            missing=missing,
            notes=truth.notes,
        )
        if math.isnan(result.rank):
            return result
        # areas that were not compared are not drawn
        drawn = replace(truth, classes=None) if CLASSES in missing else truth
        return replace(result, example=example_of(slide, drawn, found))


def write_evaluation(evaluation: Evaluation, out: Path) -> None:
    """Write metrics.csv (a row per image), metrics.json (all of them) and examples.png (best and worst).

    Raises:
        OutputError: the folder cannot be written.
    """
    with output_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        # the pictures of an earlier evaluation are not of this one
        remove(out / "examples.png")
    replace_file(out / "metrics.csv", _csv(evaluation).encode())
    text = json.dumps(finite(as_json(evaluation)), indent=2, ensure_ascii=False, default=str)
    replace_file(out / "metrics.json", text.encode("utf-8", "backslashreplace"))
    drawn = [(image, image.example) for image in evaluation.scored if image.example]
    if drawn:
        ranked = sorted(drawn, key=lambda item: -item[0].rank)
        draw_examples(
            [(image.slide_id, _caption(image), example) for image, example in ranked],
            evaluation.model["name"],
            _ranked_by(evaluation),
            out / "examples.png",
        )


def _ranked_by(evaluation: Evaluation) -> str:
    values = next((image.values for image in evaluation.scored), {})
    return next((name for name in RANKED_BY if name in values), "")


def _caption(image: ImageResult) -> str:
    counts = image.comparison.counts if image.comparison else None
    return f"{image.rank:.3f}" + (f" · {counts[0]:,} true, {counts[1]:,} found" if counts else "")


def _csv(evaluation: Evaluation) -> str:
    names = list(dict.fromkeys(name for image in evaluation.scored for name in image.values))
    facts = ["image", "status", "reason", "truth", "width", "height", "mpp", "seconds", "true_count", "found_count"]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*facts, *names, "message", "notes"], lineterminator="\n", restval="")
    writer.writeheader()
    for image in evaluation.images:
        counts = (image.comparison.counts if image.comparison else None) or ("", "")
        width, height = image.size if image.comparison else ("", "")
        row: dict[str, Any] = {"image": image.slide_id, "status": image.status, "reason": image.reason}
        row |= {"truth": image.truth, "width": width, "height": height, "message": image.message}
        row |= {"notes": "; ".join(image.notes)}
        row |= {"mpp": f"{image.mpp:g}" if image.comparison else "", "seconds": f"{image.seconds:.3f}"}
        row |= {"true_count": counts[0], "found_count": counts[1]}
        row |= {name: "" if math.isnan(value) else f"{value:.6g}" for name, value in image.values.items()}
        writer.writerow(row)
    return text.getvalue()


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """What metrics.json holds; values that are not defined are NaN here and null there."""
    pooled = sum((image.comparison.scores for image in evaluation.scored if image.comparison), Scores())
    return {
        "schema": 1,
        "model": evaluation.model,
        "data": evaluation.data,
        "images": len(evaluation.images),
        "scored": len(evaluation.scored),
        "metrics": {name: asdict(summary) for name, summary in evaluation.metrics().items()},
        "not_computed": evaluation.missing,
        "notes": evaluation.notes,
        "confusion": None
        if pooled.confusion is None
        else {"classes": pooled.class_names, "rows_true_columns_found": pooled.confusion.tolist()},
        "count_bins": list(evaluation.count_edges),
        "not_scored": [
            {"image": image.slide_id, "status": image.status, "reason": image.reason, "message": image.message}
            for image in evaluation.images
            if image.status != "complete"
        ],
        "settings": asdict(evaluation.settings) | {"iou": IOU},
        "command": evaluation.command,
        "started": evaluation.started,
        "seconds": round(evaluation.seconds, 3),
        "versions": versions(),
    }

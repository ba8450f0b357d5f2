"""``slide.json``: what a run says of one slide, and the run's memory of what is done."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import platform
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsikit.atomic import replace_file
from wsikit.errors import WsikitError
from wsikit.pipeline.busy import Busy
from wsikit.pipeline.stamps import size_on_disk

if TYPE_CHECKING:
    from wsikit.pipeline.classmap import MapFacts
    from wsikit.pipeline.run import RunReport
    from wsikit.predictions import Model
    from wsikit.slides import BadTile, Slide

SCHEMA = 2
RESULT_VERSION = 7
"""Raised whenever the same input and parameters would give other results than before; old results are then redone.
7: levels have their true downsamples, tissue shares at the slide's edge are of what lies on it, and of two versions of
one object at a seam one stays though it lies within its core."""
TRANSIENT = frozenset(
    {"io_error", "no_space", "no_gpu_memory", "internal", "slide_changed"}
    | {"worker_lost", "worker_memory", "worker_timeout"}
)
"""Reasons that lie in the machine and not in the slide: such a slide is tried again by the next run."""
_PACKAGES = (
    *("wsikit", "numpy", "scipy", "scikit-image", "shapely", "zarr", "tifffile", "imagecodecs"),
    *("openslide-python", "openslide-bin", "tiffslide", "dask"),
)

Record = dict[str, Any]


def digest(value: object) -> str:
    """sha256 of a JSON-ready value, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


@cache
def versions() -> dict[str, str]:
    """Python, platform and the packages that results depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def read_record(folder: Path) -> Record | None:
    """The slide's record, or None where there is none that can be read."""
    try:
        record = json.loads((folder / "slide.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("schema") == SCHEMA else None


def finite(value: Any) -> Any:
    """A JSON-ready value with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_record(folder: Path, record: Mapping[str, Any]) -> Record:
    """Replace the slide's record and return it as it will be read. Raises OutputError."""
    text = json.dumps(finite(record), indent=2, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace")
    replace_file(folder / "slide.json", text)
    written: Record = json.loads(text)
    return written


def is_settled(record: Record | None, key: str, folder: Path, *, retry_failed: bool = False) -> bool:
    """Whether a slide needs nothing more: same key, an outcome that would not change, all its outputs there.

    Outputs are looked at for their size, which finds what was removed or cut short. What was changed in its place takes
    reading it all.
    """
    if record is None or record.get("key") != key:
        return False
    if record.get("status") == "failed":
        return not retry_failed and record.get("reason") not in TRANSIENT
    if not has_results(record):
        return False
    try:
        return all(size_on_disk(folder / name) == facts["bytes"] for name, facts in record["outputs"].items())
    except (OSError, KeyError, TypeError, AttributeError):
        return False


def has_results(record: Record | None) -> bool:
    """Whether there are results beside the record."""
    return record is not None and record.get("status") in {"complete", "partial"}


def model_card(predictor: Model) -> dict[str, Any]:
    """What identifies a model: two models with the same card give the same results."""
    from wsikit.predictions import area_spec, density_cell
    from wsikit.predictors.files import code_of

    return {
        "name": predictor.name,
        "class": code_of(type(predictor)),
        # results of before there were strides stay valid
        "tile": {name: value for name, value in asdict(predictor.tile).items() if value is not None},
        "labels": [asdict(label) for label in predictor.labels],
        "identity": dict(predictor.identity),
        **({"density_cell": density_cell(predictor)} if density_cell(predictor) else {}),
        **({"areas": asdict(spec)} if (spec := area_spec(predictor)) else {}),
    }


def slide_facts(slide: Slide) -> Record:
    """What a record says of the slide itself."""
    return {
        "reader": {"name": slide.reader.name, "vendor": slide.reader.vendor},
        "width": slide.width,
        "height": slide.height,
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source,
        "bounds_offset": list(slide.bounds_offset),
    }


def bad_tile_facts(bad: Iterable[BadTile]) -> list[Record]:
    """Where tiles are that cannot be decoded: x0, y0, x1, y1 in level-0 pixels."""
    return [{"level": tile.level, "box": list(tile.level0())} for tile in bad]


def describe(slide: Slide, predictor: Model, report: RunReport) -> Record:
    """The part of a record that a successful run fills."""
    merged, card = report.merged, model_card(predictor)
    partial = report.status == "partial"
    remarks = list(_remarks(report, predictor.tile.min_tissue))
    return {
        "status": report.status,
        "reason": "bad_tiles" if partial else "",
        "message": "; ".join(message for message, _ in remarks),
        "remedy": "; ".join(remedy for _, remedy in remarks),
        **slide_facts(slide),
        "model": {
            "name": predictor.name,
            "mpp": report.mpp,
            "core": report.core,
            "halo": report.halo,
            "labels": card["labels"],
            "hash": digest(card),
        },
        "tissue": dict(report.tissue),
        "bound": dict(report.bound),
        "warnings": list(report.bound.get("warnings", ())),
        "patches": report.patches,
        "quality": {
            "patches": len(report.quality),
            "dropped": len(report.quality) - report.patches,
            "filter": str(report.qc),
            **report.quality.summary(),
        },
        "objects": merged.objects,
        "objects_per_class": dict(merged.objects_per_class),
        "seam_conflicts": merged.seam_conflicts,
        "area_fractions": dict(merged.area_fractions),
        **_map_facts(merged.class_map),
        "scores": dict(merged.scores),
        **({} if merged.density_count is None else {"density_count": merged.density_count}),
        **({"features": dict(zip(("patches", "width"), merged.features, strict=True))} if merged.features else {}),
        "tissue_um2": report.tissue_um2,
        "bad_tiles": bad_tile_facts(report.bad_tiles),
        "seconds": dict(report.seconds),
        "busy": report.busy.rounded(),
        # of what the record holds, so that the report says the same
        "bottleneck": str(Busy.of(report.busy.rounded())),
        "peak_rss_mb": report.peak_rss_mb,
        "outputs": dict(report.outputs),
    }


def _map_facts(found: MapFacts | None) -> Record:
    """Of class maps alone."""
    if found is None:
        return {}
    ratio = found.tumor_stroma_ratio
    return {
        "areas_mm2": dict(found.areas_mm2),
        "mean_confidence": found.confidence,
        "low_confidence": found.low_confidence,
        **({} if ratio is None else {"tumor_stroma_ratio": ratio}),
    }


def _remarks(report: RunReport, min_tissue: float) -> Iterator[tuple[str, str]]:
    """What a user should know of a slide that did not fail, and what to do about it."""
    if not len(report.quality) and report.tissue_um2 > 0:
        yield (
            f"it has {report.tissue_um2 / 1e6:.3g} mm2 of tissue, and no patch of {report.core} px at "
            f"{report.mpp:.4g} um per px has a tissue share of {min_tissue:g}: nothing was looked at",
            "give --min-tissue a smaller share; at 0 any tissue at all is enough",
        )
    if report.bad_tiles:
        yield (
            f"{len(report.bad_tiles)} tile(s) of the file cannot be decoded",
            "copy or scan the slide again; results leave these tiles out",
        )
    if len(report.quality) and not report.patches:
        yield (
            f"none of its {len(report.quality)} patches passes the quality filter {report.qc}",
            "look at the slide and at its measures under quality, or give --qc wider limits",
        )


def failure(error: Exception) -> Record:
    """The part of a record that says why a slide failed."""
    if isinstance(error, WsikitError):
        return {"status": "failed", "reason": error.code, "message": str(error), "remedy": error.remedy}
    if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return {"status": "failed", "reason": "no_space", "message": str(error), "remedy": "free some space, run again"}
    return {
        "status": "failed",
        "reason": "io_error" if isinstance(error, OSError) else "internal",
        "message": f"{type(error).__name__}: {error}",
        "remedy": "run again; if it stays, report it with the traceback in slide.json",
        "traceback": "".join(traceback.format_exception(error)),
    }

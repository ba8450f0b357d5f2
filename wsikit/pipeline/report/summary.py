"""``summary.csv``: a row per file."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wsikit.atomic import replace_file
from wsikit.pipeline.lettering import printable
from wsikit.pipeline.report.facts import SlideFacts

COLUMNS = ("slide_id", "path", "status", "reason", "message", "patches", "objects", "seconds")
MORE_COLUMNS = ("tissue_mm2", "objects_per_mm2", "mpp", "reader", "bad_tiles", "seam_conflicts", "peak_rss_mb")


def write_summary(out_dir: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    """Write OUT/summary.csv, one row per record in their order: UTF-8, comma, quoted where needed, ``\\n`` line ends.

    After ``COLUMNS`` and ``MORE_COLUMNS`` comes ``objects:<label>`` (a count), or ``area_mm2:<label>`` and
    ``fraction:<label>`` (a share of what was analysed) for every label that occurs; of class maps ``mean_confidence``,
    ``low_confidence`` (a share too) and, where they have both, ``tumor_stroma_ratio``; then, where any record has them,
    ``density_count`` (objects by the density map, three decimals) and ``density_per_mm2`` beside the counts of objects,
    ``score:<label>`` of a bag model, ``flag:<artefact>`` (a share of the patches), ``dropped`` patches, ``patient``,
    ``busy:<stage>`` (seconds; of ``busy:wall`` that it could have worked) and ``bottleneck``, the stage that binds.
    Control characters of names
    are escaped, so a row is a line. Empty means not known. Numbers are written as they are in the records, mm^2 and
    shares with six decimals.

    Raises:
        OutputError: it cannot be written.
    """
    slides = [SlideFacts.of(record) for record in records]
    columns = _columns(slides)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(printable, [*COLUMNS, *MORE_COLUMNS, *columns]))
    for slide in slides:
        more = _more(slide)
        cells = [*_cells(slide), *map(more.get, columns)]
        writer.writerow(["" if cell is None else printable(cell) for cell in cells])
    path = out_dir / "summary.csv"
    replace_file(path, text.getvalue().encode())
    return path


def _cells(slide: SlideFacts) -> list[Any]:
    """The columns that every summary has."""
    return [
        *(slide.slide_id, slide.path, slide.status, slide.reason, slide.message),
        *(slide.patches, slide.found, slide.total_seconds),
        None if slide.tissue_mm2 is None else f"{slide.tissue_mm2:.6f}",
        _rounded(slide.per_mm2),
        slide.mpp,
        slide.reader.name,
        None if slide.bad_tiles is None else len(slide.bad_tiles),
        slide.seam_conflicts,
        slide.peak_rss_mb,
    ]


def _rounded(per_mm2: float | None) -> str | None:
    return None if per_mm2 is None else f"{per_mm2:.2f}"


def _more(slide: SlideFacts) -> dict[str, Any]:
    """Column -> value, of what only some runs have."""
    quality = slide.quality
    return {
        **{f"objects:{name}": count for name, count in slide.objects_per_class.items()},
        **(
            {}
            if slide.density_count is None
            else {
                "density_count": f"{slide.density_count:.3f}",
                "density_per_mm2": _rounded(slide.density(slide.density_count)),
            }
        ),
        **{f"area_mm2:{name}": round(mm2, 6) for name, mm2 in slide.areas_mm2.items()},
        **{f"fraction:{name}": round(share, 6) for name, share in slide.area_fractions.items()},
        **_map_values(slide),
        **{f"score:{name}": round(score, 6) for name, score in slide.scores.items()},
        **({f"flag:{name}": round(share, 6) for name, share in quality.shares().items()} if quality else {}),
        **({"dropped": quality.dropped} if quality else {}),
        **({"patient": slide.patient} if slide.patient else {}),
        **{f"busy:{name}": seconds for name, seconds in slide.stages_busy().rounded().items() if slide.busy},
        **({"bottleneck": slide.stages_busy().bound()} if slide.busy else {}),
    }


def _map_values(slide: SlideFacts) -> dict[str, float]:
    """Of a class map, beside its areas."""
    values = {name: getattr(slide, name) for name in ("mean_confidence", "low_confidence", "tumor_stroma_ratio")}
    return {name: round(value, 6) for name, value in values.items() if value is not None}


def _columns(slides: Iterable[SlideFacts]) -> list[str]:
    """Those that occur: kind by kind, within a kind in order of their first appearance."""
    kinds = (
        "objects",
        "density_count",
        "density_per_mm2",
        "area_mm2",
        "fraction",
        "mean_confidence",
        "low_confidence",
        "tumor_stroma_ratio",
        "score",
        "flag",
        "dropped",
        "patient",
        "busy",
        "bottleneck",
    )
    found = dict.fromkeys(name for slide in slides for name in _more(slide))
    return sorted(found, key=lambda name: kinds.index(name.partition(":")[0]))

"""``report.html`` and ``summary.csv``: what a folder run did, from the dicts that are written as ``slide.json``.

The report is one file that needs no server and no network: overview pictures are embedded, made small enough that the
whole stays near ``PICTURES_BYTES``. A record of a failed slide may
lack anything but slide_id, path, status, reason and message.
"""

from __future__ import annotations

import base64
import csv
import importlib.resources
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from PIL import Image

from wsikit.atomic import replace_file
from wsikit.pipeline.lettering import printable

Record = Mapping[str, Any]
"""What ``slide.json`` holds."""

STATUSES = ("complete", "partial", "failed")
PICTURE_BYTES = 195_000
"""Largest embedded overview of one slide, before base64."""
PICTURES_BYTES = 36_000_000
"""All of them together; with many slides each gets its share, so that a browser opens the report of any run."""
PICTURE_STEPS = ((900, 86), (900, 76), (900, 66), (720, 66), (560, 66), (400, 64), (260, 60))
"""(long side in px, JPEG quality) to try in turn until a picture fits."""
THUMBNAIL = (128, 60)
SHOWN_BAD_TILES = 24
"""Listed with their coordinates in a slide's section; slide.json has all."""
COLUMNS = ("slide_id", "path", "status", "reason", "message", "patches", "objects", "seconds")
STAGES = ("open", "tissue", "prepare", "predict", "merge")
"""In the order of their happening; the report shows others after them."""
MORE_COLUMNS = ("tissue_mm2", "objects_per_mm2", "mpp", "reader", "bad_tiles", "seam_conflicts", "peak_rss_mb")


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What holds for the run and not for one slide. All of it is optional."""

    command: str = ""
    """The command line."""
    wall_seconds: float | None = None
    """From start to end of the run; without it the slides' own seconds are added up, and called so."""
    parameters: Mapping[str, Any] | None = None
    """name -> value, as in run.yaml."""
    started: str = ""
    """When, as text."""


def write_summary(out_dir: Path, records: Sequence[Record]) -> Path:
    """Write OUT/summary.csv, one row per record in their order: UTF-8, comma, quoted where needed, ``\\n`` line ends.

    After ``COLUMNS`` and ``MORE_COLUMNS`` comes ``objects:<label>`` (a count), ``fraction:<label>`` (a share of the
    tissue) or ``score:<label>`` (of the whole slide) for every label that occurs. Control characters of names are
    escaped, so a row is a line. Empty means not known. Numbers are written as they are in the records, mm^2, shares and
    scores with six decimals.

    Raises:
        OutputError: it cannot be written.
    """
    path = out_dir / "summary.csv"
    objects, fractions = _names(records, "objects_per_class"), _names(records, "area_fractions")
    scores = _names(records, "scores")
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    more = [f"objects:{name}" for name in objects] + [f"fraction:{name}" for name in fractions]
    more += [f"score:{name}" for name in scores]
    writer.writerow([*COLUMNS, *MORE_COLUMNS, *map(printable, more)])
    for record in records:
        counts, shares = record.get("objects_per_class") or {}, record.get("area_fractions") or {}
        rounded = [None if shares.get(name) is None else round(shares[name], 6) for name in fractions]
        said = record.get("scores") or {}
        rounded += [None if said.get(name) is None else round(said[name], 6) for name in scores]
        cells = [*_cells(record), *map(counts.get, objects), *rounded]
        writer.writerow(["" if cell is None else printable(cell) for cell in cells])
    replace_file(path, text.getvalue().encode())
    return path


def _cells(record: Record) -> list[Any]:
    bare = record.get("features") and not record.get("objects_per_class")
    plain = [None if name == "objects" and bare else record.get(name) for name in COLUMNS[:-1]]
    tissue, density = _tissue_mm2(record), _per_mm2(record)
    return [
        *plain,
        _seconds(record),
        None if tissue is None else f"{tissue:.6f}",
        None if density is None else f"{density:.2f}",
        record.get("mpp"),
        (record.get("reader") or {}).get("name"),
        _bad_tiles(record),
        record.get("seam_conflicts"),
        record.get("peak_rss_mb"),
    ]


def _names(records: Iterable[Record], key: str) -> list[str]:
    """The labels that occur, in order of their first appearance."""
    return list(dict.fromkeys(name for record in records for name in record.get(key) or {}))


def _seconds(record: Record) -> float | None:
    total: float | None = (record.get("seconds") or {}).get("total")
    return total


def _tissue_mm2(record: Record) -> float | None:
    area = record.get("tissue_um2")
    return None if area is None else float(area) / 1e6


def _bad_tiles(record: Record) -> int | None:
    tiles = record.get("bad_tiles")
    return None if tiles is None else len(tiles)


def _objects(record: Record) -> int | None:
    """Objects of the model's classes; None for a score map, whose one feature is the tissue, and for bare features."""
    if (record.get("area_fractions") or record.get("features")) and not record.get("objects_per_class"):
        return None
    found: int | None = record.get("objects")
    return found


def _per_mm2(record: Record) -> float | None:
    area, objects = _tissue_mm2(record), _objects(record)
    return objects / area if area and objects is not None else None


def write_report(
    out_dir: Path, records: Sequence[Record], *, title: str = "wsikit run", run: RunFacts | None = None
) -> Path:
    """Write OUT/report.html, with the pictures at OUT/<slide_id>/overview.png where they exist.

    Raises:
        OutputError: it cannot be written.
    """
    path = out_dir / "report.html"
    views = _slides(out_dir, records)
    template = _environment().from_string(
        importlib.resources.files(__package__).joinpath("report.html").read_text("utf-8")
    )
    chunks = template.generate(
        title=title,
        run=run or RunFacts(),
        total=_totals(records),
        slides=views,
        problems=_problems(views),
        models=_distinct(records, "model"),
        versions=_distinct(records, "versions"),
        has=_columns(records),
        stage_colors=_stage_colors(records),
        shown_bad_tiles=SHOWN_BAD_TILES,
    )
    replace_file(path, (chunk.encode() for chunk in chunks))
    return path


def _columns(records: Sequence[Record]) -> dict[str, bool]:
    """Which columns say something: a run of a score map has no objects, and most runs have nothing bad to count."""
    has = {key: any(record.get(key) for record in records) for key in ("bad_tiles", "seam_conflicts")}
    has["areas"] = any(record.get("area_fractions") for record in records)
    has |= {key: any(record.get(key) for record in records) for key in ("scores", "features")}
    has["objects"] = not (has["areas"] or has["features"]) or any(_objects(record) is not None for record in records)
    return has


def _stage_colors(records: Iterable[Record]) -> dict[str, str]:
    """stage -> CSS colour, the same in every row; hues far apart come first."""
    names = sorted((name for name in _names(records, "seconds") if name != "total"), key=_stage_order)
    return {name: f"hsl({(205 + 137 * index) % 360} 45% 55%)" for index, name in enumerate(names)}


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    environment.filters |= {
        "number": _number,
        "significant": _significant,
        "setting": _setting,
        "duration": _duration,
        "moment": _moment,
        "size": _size,
        "rgb": _rgb,
    }
    return environment


def _shown(value: object) -> object:
    """Escape what no HTML file should hold, in all that the template prints; its own markup passes as it is."""
    return printable(value) if type(value) is str else value


def _moment(text: str) -> str:
    """An ISO time as 21 November 2026, 11:39 UTC; other text as it is."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{time.day} {time:%B %Y, %H:%M %Z}".strip()


def _setting(value: object) -> object:
    """What a predictor has bound: numbers rounded, nothing as a dash."""
    return "–" if value is None else _significant(value, 4) if isinstance(value, float) else value


def _significant(value: float | None, digits: int = 3) -> str:
    """Rounded to so many digits, never in powers of ten."""
    if value is None:
        return "–"
    decimals = digits - 1 - math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0
    return f"{value:,.{max(0, decimals)}f}"


def _number(value: float | None, decimals: int = 0) -> str:
    return "–" if value is None else f"{value:,.{decimals}f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _rgb(color: Sequence[int]) -> str:
    """CSS colour; through int, since a style attribute is no place for text from a file."""
    return "rgb({}, {}, {})".format(*(int(value) for value in color))


def _totals(records: Sequence[Record]) -> dict[str, Any]:
    times = [seconds for record in records if (seconds := _seconds(record)) is not None]
    return {
        "slides": len(records),
        "status": {status: sum(record["status"] == status for record in records) for status in STATUSES},
        "objects": sum(_objects(record) or 0 for record in records),
        "tissue_mm2": sum(_tissue_mm2(record) or 0.0 for record in records),
        "seconds": sum(times) if times else None,
    }


@dataclass(frozen=True, slots=True)
class _Pictures:
    """A slide's overview as data URLs, or why there is none."""

    thumbnail: str = ""
    large: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _SlideView:
    """A record and what the template shows of it beyond the record's own values."""

    index: int
    record: Record
    tissue_mm2: float | None
    objects: int | None
    per_mm2: float | None
    seconds: float | None
    bad_tiles: int | None
    stages: tuple[tuple[str, float, float], ...]
    """(stage, seconds, share of all stages in percent), without the total."""
    colors: Mapping[str, Sequence[int]]
    """label name -> RGB."""
    folder: str
    """URL of the slide's folder, relative to the report."""
    pictures: _Pictures

    @property
    def has_section(self) -> bool:
        """All that there is to say of a failed slide without a picture stands among the problems."""
        return self.record["status"] in {"complete", "partial"} or bool(self.pictures.large)

    def get(self, name: str) -> Any:
        """A value of the record, None where it has none."""
        return self.record.get(name)

    def link(self, name: str) -> str:
        """URL of an output of the slide, relative to the report."""
        return f"{self.folder}/{_url(name)}"


def _slides(out_dir: Path, records: Sequence[Record]) -> list[_SlideView]:
    share = min(PICTURE_BYTES, PICTURES_BYTES // max(1, len(records)))
    return [_slide(out_dir, index, record, share) for index, record in enumerate(records, 1)]


def _slide(out_dir: Path, index: int, record: Record, share: int) -> _SlideView:
    slide_id = str(record["slide_id"])
    return _SlideView(
        index=index,
        record=record,
        tissue_mm2=_tissue_mm2(record),
        objects=_objects(record),
        per_mm2=_per_mm2(record),
        seconds=_seconds(record),
        bad_tiles=_bad_tiles(record),
        stages=_stages(record),
        colors={label["name"]: label["color"] for label in (record.get("model") or {}).get("labels") or ()},
        folder=_url(slide_id),
        pictures=_pictures(out_dir / slide_id / "overview.png", share),
    )


def _stages(record: Record) -> tuple[tuple[str, float, float], ...]:
    seconds = record.get("seconds") or {}
    stages = {name: float(seconds[name]) for name in sorted(seconds, key=_stage_order) if name != "total"}
    whole = sum(stages.values())
    return tuple((name, value, 100 * value / whole if whole else 0.0) for name, value in stages.items())


def _stage_order(name: str) -> int:
    return STAGES.index(name) if name in STAGES else len(STAGES)


def _url(name: str) -> str:
    """Percent-encoded, byte for byte as the file system has it."""
    return quote(name, safe="", errors="surrogateescape")


def _pictures(path: Path, limit: int) -> _Pictures:
    """The overview, its large view at most ``limit`` bytes of JPEG where the smallest of ``PICTURE_STEPS`` is."""
    if not path.is_file():
        return _Pictures(problem="no overview")
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
    except (OSError, SyntaxError) as error:  # Pillow reports a broken PNG chunk as a SyntaxError
        return _Pictures(problem=f"{path.name} cannot be read: {error}")
    for side, quality in PICTURE_STEPS:
        large = _jpeg(image, side, quality)
        if len(large) <= limit:
            break
    return _Pictures(_data_url(_jpeg(image, *THUMBNAIL)), _data_url(large))


def _jpeg(image: Image.Image, side: int, quality: int) -> bytes:
    """JPEG of the image, which is first reduced in place to a long side of at most ``side`` px."""
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _data_url(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


@dataclass(frozen=True, slots=True)
class _Problem:
    """Slides that ended for the same reason."""

    code: str
    slides: Sequence[_SlideView]

    @property
    def remedies(self) -> list[str]:
        """What to do, each advice once."""
        return list(dict.fromkeys(slide.get("remedy") for slide in self.slides if slide.get("remedy")))


def _problems(slides: Iterable[_SlideView]) -> list[_Problem]:
    """Everything that is not complete, the most frequent reason first."""
    grouped: dict[str, list[_SlideView]] = {}
    for slide in slides:
        if slide.get("status") != "complete":
            grouped.setdefault(slide.get("reason") or slide.get("status"), []).append(slide)
    return [_Problem(code, found) for code, found in sorted(grouped.items(), key=lambda item: -len(item[1]))]


def _distinct(records: Iterable[Record], key: str) -> list[Any]:
    """The different values that the records have, in order: a resumed run may have several."""
    found: list[Any] = []
    for record in records:
        value = record.get(key)
        if value and value not in found:
            found.append(value)
    return found

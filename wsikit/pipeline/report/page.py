"""``report.html``: one file that needs no server and no network.

Pictures are embedded, style and script are inline, and a content security policy with the script's own hash lets
nothing else run: text from a file name could not, even if it were not escaped. Without a script all that is lost is
sorting, filtering and zooming.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from wsikit.atomic import replace_file
from wsikit.pipeline.report import charts, cohort, formats, pictures
from wsikit.pipeline.report.facts import FLAG_SHARE, Color, SlideFacts, ranked
from wsikit.pipeline.report.folder import RunFacts

SHOWN_BAD_TILES = 24
"""Listed with their coordinates in a slide's section; slide.json has all."""
OPEN_LISTS = 12
"""Longer lists of files are folded."""


@dataclass(frozen=True, slots=True)
class View:
    """A slide as the template shows it."""

    index: int
    facts: SlideFacts
    folder: str
    """URL of the slide's folder, relative to the report."""
    picture: pictures.Pictures

    @property
    def has_section(self) -> bool:
        """All that there is to say of other slides without a picture stands in the table and among the problems."""
        return self.facts.done or bool(self.picture.large)

    @property
    def colors(self) -> dict[str, Color]:
        """Class -> colour."""
        return cohort.label_colors([self.facts])

    def link(self, name: str) -> str:
        """URL of an output of the slide, relative to the report."""
        return f"{self.folder}/{formats.url(name)}"


def write_report(
    out_dir: Path, records: Sequence[Mapping[str, Any]], *, title: str = "", run: RunFacts | None = None
) -> Path:
    """Write OUT/report.html, with the pictures at OUT/<slide_id>/overview.png where they exist.

    Args:
        out_dir: the output folder.
        records: what slide.json holds, of each slide; see ``SlideFacts`` for what is read.
        title: heading; by default the model and the number of slides.
        run: what holds for the run.

    Raises:
        OutputError: it cannot be written.
    """
    slides = [SlideFacts.of(record) for record in records]
    path = out_dir / "report.html"
    script = _source("report.js")
    chunks = _template().generate(
        title=title or _title(slides),
        run=run or RunFacts(),
        style=Markup(_source("report.css")),  # files of this package
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        views=_views(out_dir, slides),
        **_cohort(slides),
    )
    replace_file(path, (chunk.encode() for chunk in chunks))
    return path


def _source(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text("utf-8").strip()


def _title(slides: Sequence[SlideFacts]) -> str:
    models = [slide.model.name for slide in slides if slide.model.name]
    return ": ".join([*dict.fromkeys(models), formats.counted(len(slides), "slide")])


def _views(out_dir: Path, slides: Sequence[SlideFacts]) -> list[View]:
    share = min(pictures.PICTURE_BYTES, pictures.PICTURES_BYTES // max(1, len(slides)))
    # Pillow lets go of the interpreter while it decodes and resizes
    with ThreadPoolExecutor() as pool:
        paths = (out_dir / slide.slide_id / "overview.png" for slide in slides)
        found = list(pool.map(partial(pictures.embedded, limit=share), paths))
    return [
        View(index, slide, formats.url(slide.slide_id), picture)
        for index, (slide, picture) in enumerate(zip(slides, found, strict=True), 1)
    ]


def _cohort(slides: Sequence[SlideFacts]) -> dict[str, Any]:
    """What the template tells of all slides together."""
    stages = cohort.stages(slides)
    times = [slide.total_seconds for slide in slides if slide.total_seconds is not None]
    encoded = [slide.features for slide in slides if slide.done and slide.features]
    return {
        "outcomes": cohort.outcomes(slides),
        "tissue_mm2": cohort.tissue_mm2(slides),
        "objects": cohort.object_measures(slides),
        "areas": cohort.area_measures(slides),
        "scores": cohort.top_scores(slides),
        "features": encoded,
        "patients": cohort.patients(slides),
        "quality": cohort.quality(slides),
        "problems": cohort.problems(slides),
        "warnings": cohort.warnings(slides),
        "stages": stages,
        "stage_colors": {stage.name: f"hsl({(205 + 137 * i) % 360} 45% 55%)" for i, stage in enumerate(stages)},
        "bottleneck": cohort.bottleneck(stages),
        "binding": cohort.binding(cohort.busy(slides)),
        "work_seconds": sum(times) if times else None,
        "models": _distinct(slide.model.model_dump(exclude_defaults=True) for slide in slides),
        "versions": _distinct(slide.versions for slide in slides),
        "has": _columns(slides),
    }


def _columns(slides: Sequence[SlideFacts]) -> dict[str, bool]:
    """Which columns of the table say something: most runs have nothing bad to count."""
    return {
        "objects": not any(s.area_fractions or s.scores or s.features for s in slides)
        or any(s.found is not None for s in slides),
        "density_count": any(s.density_count is not None for s in slides),
        **{
            name: any(getattr(s, name) for s in slides)
            for name in ("area_fractions", "scores", "features", "quality", "bad_tiles", "seam_conflicts", "patient")
        },
    }


def _distinct(values: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The different ones, in order: a resumed run may have several models or versions."""
    found: list[dict[str, Any]] = []
    for value in values:
        if value and value not in found:
            found.append(value)
    return found


@cache
def _template() -> jinja2.Template:
    """The page, compiled once: that costs more than filling it."""
    return _environment().from_string(_source("report.html"))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=formats.shown
    )
    for filter_ in (
        *(formats.number, formats.significant, formats.setting, formats.duration, formats.moment, formats.size),
        *(formats.rgb, formats.percent, formats.density, formats.counted, formats.sentence),
        *(charts.distributions, charts.composition, ranked),
    ):
        environment.filters[filter_.__name__] = filter_
    environment.globals |= {
        "shown_bad_tiles": SHOWN_BAD_TILES,
        "unfinished": cohort.UNFINISHED,
        "open_lists": OPEN_LISTS,
        "flag_share": FLAG_SHARE,
        "meaning": cohort.MEANING,
        "density_text": formats.density,
        "percent_text": formats.percent,
    }
    return environment

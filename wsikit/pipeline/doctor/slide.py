"""One slide looked at: opened, its resolution doubted, its tissue found, its tiles sampled, its windows counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from wsikit.config import RunConfig
from wsikit.errors import ResolutionError, SlideOpenError, WsikitError
from wsikit.pipeline.busy import Clock
from wsikit.pipeline.doctor.companions import missing_ome
from wsikit.pipeline.doctor.findings import Diagnosis, Finding, in_order, problem
from wsikit.pipeline.doctor.resolution import doubtful_mpp, objective_power
from wsikit.pipeline.doctor.tiles import look_at_tiles, tile_findings
from wsikit.pipeline.inputs import IMAGE_SUFFIXES, SlideEntry
from wsikit.pipeline.settings import tissue_of
from wsikit.predictions import Model
from wsikit.slides import Slide, open_reader, open_with
from wsikit.slides.ifd import check_ifds
from wsikit.slides.slide import checked_mpp
from wsikit.tiling import SUPERTILE, TileGrid
from wsikit.tissue import COARSEST_MPP, TissueMask

STAND_IN_MPP = 0.5
"""um per px by which the tiles of a slide without a usable mpp are looked at; nothing is said by it."""
PYRAMID_SIDE = 20_000
"""Level-0 px from which on a slide should have coarse levels: finding tissue reads all of a level, and 400 megapixels
take 4 s."""
COARSE = 4.0
"""A slide has coarse levels where one is at most this many times finer than the tissue mask."""
WHITE = 220
"""Glass is brighter than this (mean of R, G and B)."""
UNKNOWN = ("OpenSlide does not know the format", "neither a PNG")
"""How readers' reasons begin where another one's may say more."""
CUT = "was cut short"
"""What readers say of a file that ends within what it says of itself."""
PEN_SHARE = 0.002
"""Share of the slide under ink that is worth a note."""


def look_at_slide(
    entry: SlideEntry, config: RunConfig, model: Model | None, wanted: int | None, seed: int
) -> Diagnosis:
    """Everything that can be said of a slide by opening it. Raises nothing but what is no error of wsikit.

    Args:
        entry: the slide.
        config: of the run that is planned.
        model: of that run, not bound to a slide; None where none is planned.
        wanted: tiles to decode per level; None is all of them.
        seed: of the sample of tiles.
    """
    look = _Look(entry, config, model)
    with suppress(OSError):
        look.facts["bytes"] = entry.path.stat().st_size
    try:
        look.open()
        look.see(wanted, seed)
    except WsikitError as error:
        look.findings.append(_explained(error, entry.path, isolate=config.isolate))
    finally:
        look.close()
    look.facts["seconds"] = look.clock.seconds()
    return Diagnosis(entry.slide_id, str(entry.path), entry.patient, in_order(look.findings), look.facts)


def _explained(error: WsikitError, path: Path, *, isolate: bool) -> Finding:
    """An error in few words: what all readers say is for ``wsikit info``."""
    if error.code == "unreadable" and CUT in str(error):
        return _cut_short(path)
    if not isinstance(error, SlideOpenError) or error.code == "not_a_file":
        return problem(error)
    reason = _reason(path, isolate=isolate) if error.code == "unreadable" else str(error.__cause__ or error)
    return Finding(error.code, "error", f"{path.name}: {reason}; `wsikit info` has what each reader says", error.remedy)


def _cut_short(path: Path) -> Finding:
    said = f"{path.name} ends before its own index does"
    return Finding("truncated", "error", said, "copy the file again: a part of it is missing")


def _lost_levels(path: Path) -> Iterator[Finding]:
    """A TIFF that was cut short within its directories may still open, with the levels that are left."""
    try:
        check_ifds(path)
    except SlideOpenError as error:
        if CUT in str(error):
            yield _cut_short(path)


def _reason(path: Path, *, isolate: bool) -> str:
    """Why the reader does not take a file that knows most of its kind."""
    said: list[str] = []
    for name in ("image",) if path.suffix.lower() in IMAGE_SUFFIXES else ("openslide", "image"):
        try:
            open_with(name, path, isolate=isolate).close()
        except SlideOpenError as error:
            said.append(str(error).removeprefix(f"Reading {path}: "))
    return next((text for text in said if not text.startswith(UNKNOWN)), said[0])


class _Look:
    """What is known of a slide so far."""

    def __init__(self, entry: SlideEntry, config: RunConfig, model: Model | None) -> None:
        self.entry, self.config, self.model = entry, config, model
        self.findings: list[Finding] = []
        self.facts: dict[str, Any] = {}
        self.clock = Clock()
        self.slide: Slide | None = None
        self.has_mpp = True

    def open(self) -> None:
        """Open the file; a resolution that cannot be used is a finding, and the tiles are looked at all the same."""
        with self.clock("open"):
            reader = open_reader(self.entry.path, isolate=self.config.isolate)
        override = self.entry.mpp or self.config.mpp_override
        try:
            mpp: float | None = checked_mpp(reader, override)
        except ResolutionError as error:
            self.findings.append(problem(error))
            mpp, self.has_mpp = None, False
        self.slide = Slide(reader, override if mpp is not None else STAND_IN_MPP)
        power = objective_power(reader.properties)
        width, height = reader.sizes[0]
        self.facts |= {"reader": reader.name, "vendor": reader.vendor, "width": width, "height": height}
        self.facts |= {"levels": len(reader.sizes), "mpp": mpp, "power": power}
        self.facts |= {"mpp_source": self.slide.mpp_source if mpp is not None else reader.mpp_source}
        self.findings += _lost_levels(self.entry.path)
        self.findings += missing_ome(self.entry.path, reader.properties)
        if mpp is not None:
            is_dicom = reader.vendor == "dicom"
            self.findings += doubtful_mpp(
                mpp, self.slide.mpp_source, power, is_field=reader.is_field, is_dicom=is_dicom
            )

    def see(self, wanted: int | None, seed: int) -> None:
        """Look at its tissue, then at its tiles, which need not be those that the tissue was found by."""
        assert self.slide is not None
        tissue = self._tissue() if self.has_mpp else None
        with self.clock("tiles"):
            levels = look_at_tiles(self.slide, tissue, wanted, seed)
        told = list(tile_findings(levels))
        # the tiles say more of it than looking for tissue did
        said = {finding.code for finding in told}
        self.findings = [finding for finding in self.findings if finding.code not in said] + told
        bad = sum(len(level.bad) + len(level.misplaced) for level in levels)
        self.facts |= {"tiles": sum(level.count for level in levels), "tiles_seen": sum(level.seen for level in levels)}
        self.facts |= {"tiles_bad": bad}
        if tissue is not None and self.model is not None:
            grid = TileGrid.cover(self.slide, self.model.tile, tissue)
            parts = len(grid.supertiles(self.config.supertile or SUPERTILE))
            self.facts |= {"windows": len(grid), "supertiles": parts}

    def _tissue(self) -> TissueMask | None:
        assert self.slide is not None
        self.findings += _pyramid(self.slide)
        try:
            with self.clock("tissue"):
                tissue = tissue_of(self.slide, self.entry, self.config)
        except SlideOpenError:
            raise
        except WsikitError as error:
            self.findings.append(problem(error))
            return None
        area = self.slide.width * self.slide.height * self.slide.mpp**2
        self.facts |= {"tissue_mm2": tissue.area_um2 / 1e6, "tissue_share": min(1.0, tissue.area_um2 / area)}
        self.findings += _tissue_findings(self.slide, tissue)
        return tissue

    def close(self) -> None:
        """Let the file go."""
        if self.slide is not None:
            self.slide.close()


def _pyramid(slide: Slide) -> Iterator[Finding]:
    large = max(slide.width, slide.height) > PYRAMID_SIDE
    if large and max(level.mpp for level in slide.levels) < COARSEST_MPP / COARSE:
        said = f"{slide.width}x{slide.height} px in {len(slide.levels)} level(s), none of them coarse"
        yield Finding(
            "no_pyramid", "warning", said, "convert it to a pyramid (wsikit convert): every look at it is slow"
        )


def _tissue_findings(slide: Slide, tissue: TissueMask) -> Iterator[Finding]:
    pen = float(tissue.info.get("pen", 0.0))
    if pen >= PEN_SHARE:
        inks = tissue.info.get("inks")
        said = f"pen ink covers {pen:.1%} of the slide" + (f" ({inks})" if inks else "")
        yield Finding("pen", "note", said, "nothing: it is left out; `wsikit tissue` shows where")
    if tissue.array.any():
        return
    pixels = slide.read_partial(slide.plane(tissue.mpp)).pixels
    white = float((pixels.mean(axis=2, dtype=np.float32) > WHITE).mean())
    code, what = ("blank", "white") if white > 0.99 else ("no_tissue", "as bright as glass")
    said = f"no tissue was found: {white:.1%} of the slide is {what}"
    yield Finding(
        code, "warning", said, "look at the slide; if there is tissue, draw it (mask_path) or say --tissue whole"
    )

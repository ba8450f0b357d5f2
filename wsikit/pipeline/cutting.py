"""The patches of one slide: read, judged, encoded, handed to a writer, drawn and described."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsikit.config import TileConfig
from wsikit.errors import PixelReadError
from wsikit.patches import PatchRows, PatchSet, PatchWriter
from wsikit.pipeline.each import Advance
from wsikit.pipeline.encode import PatchEncoder, own_level
from wsikit.pipeline.heat import Patches
from wsikit.pipeline.inputs import SlideEntry
from wsikit.pipeline.merge import overview_picture
from wsikit.pipeline.overview import Scene, draw_overview
from wsikit.pipeline.resident import peak_rss_mb
from wsikit.pipeline.settings import quality_filter
from wsikit.pipeline.state import (
    Record,
    bad_tile_facts,
    slide_facts,
    versions,
)
from wsikit.pipeline.windows import Windows
from wsikit.quality import Quality
from wsikit.slides import BadTile, Slide
from wsikit.tissue import TissueMask

ROWS = 256
"""Patches handed to a writer at once."""


@dataclass(slots=True)
class Cutting:
    """The patches of one slide on their way to a writer; afterwards, what became of them."""

    slide: Slide
    windows: Windows
    config: TileConfig
    threads: int = 1
    written: list[int] = field(default_factory=list)
    """Indices of the windows whose patches were written."""
    bad: list[BadTile] = field(default_factory=list)
    quality: Quality = field(default_factory=lambda: Quality.from_rows([]))
    """Of all patches looked at; empty without ``qc``."""

    def write(self, writer: PatchWriter, patches: PatchSet, advance: Advance) -> None:
        """Write all patches, in the order of the grid.

        Raises:
            PixelReadError: not one patch can be decoded.
            OutputError: the writer cannot write. In both cases nothing is left of it.
        """
        total = -(-len(self.windows.grid) // ROWS)
        advance(0, total)
        writer.begin(patches)
        try:
            for indices, data in self._rows(writer.has_pixels):
                writer.write(self._patch_rows(indices, data))
                self.written += indices.tolist()
                advance(int(indices[-1]) // ROWS, total)
            if self.bad and not self.written:
                raise PixelReadError(f"{self.slide.path.name}: none of its patches can be decoded")
            writer.commit()
        except BaseException:
            writer.abort()
            raise
        advance(total, total)

    def _rows(self, pixels: bool) -> Iterator[tuple[NDArray[np.int64], list[bytes]]]:
        """Indices and encoded patches, ``ROWS`` at a time."""
        encoder = PatchEncoder(
            self.slide,
            self.windows.grid,
            self.windows.passed,
            encoding=self.windows.encoding if pixels else None,
            quality=self.config.quality,
            subsampling=self.windows.subsampling,
            threads=self.threads,
            qc=quality_filter(self.config),
            verify=self.config.verify,
            bad=self.bad,
        )
        stream = iter(encoder)
        while rows := list(islice(stream, ROWS)):
            yield np.array([index for index, _ in rows]), [data for _, data in rows] if pixels else []
        self.quality = Quality.joined(encoder.measures)

    def _patch_rows(self, indices: NDArray[np.int64], data: list[bytes]) -> PatchRows:
        windows, scale = self.windows, self.windows.grid.spec.mpp / self.slide.mpp
        corners = windows.grid.corners[indices]
        verbatim = windows.passed[indices] if data else None
        xy = corners.astype(np.float64) * scale
        return PatchRows(corners, xy, windows.share[indices].astype(np.float32), data, verbatim)


def patch_set(slide: Slide, entry: SlideEntry, config: TileConfig, tissue: TissueMask, windows: Windows) -> PatchSet:
    """What all patches of a slide share."""
    spec, level = windows.grid.spec, own_level(slide, windows.grid.spec.mpp)
    encoded = windows.encoding == "jpeg" and not windows.passed.all()
    return PatchSet(
        slide_id=entry.slide_id,
        source=entry.path.name,
        slide_mpp=slide.mpp,
        slide_size=(slide.width, slide.height),
        mpp=spec.mpp,
        patch=spec.patch,
        step=windows.step,
        level=None if level is None else level.index,
        encoding=windows.encoding,
        quality=config.quality if encoded else None,
        subsampling=windows.subsampling if encoded else None,
        patient=entry.patient,
        label=entry.label,
        split=entry.split,
        made={
            "wsikit": versions()["wsikit"],
            "options": config.result_parameters(),
            "reader": slide.reader.name,
            "tissue": dict(tissue.info),
            "glass": windows.glass.info(),
        },
    )


def describe(slide: Slide, tissue: TissueMask, cutting: Cutting) -> Record:
    """The part of a record that a slide fills that was cut."""
    windows, bad = cutting.windows, sorted({*tissue.bad, *cutting.bad}, key=lambda tile: (tile.level, *tile.box[::-1]))
    passed = int(windows.passed[cutting.written].sum())
    looked_at = len(cutting.quality)
    dropped = looked_at - len(cutting.written) if looked_at else 0
    message, remedy = _remark(windows, cutting, len(bad))
    return {
        "status": "partial" if bad else "complete",
        "reason": "bad_tiles" if bad else "",
        "message": message,
        "remedy": remedy,
        **slide_facts(slide),
        "model": {"name": "tile", "mpp": windows.grid.spec.mpp, "size": windows.grid.spec.patch, "step": windows.step},
        "tissue": dict(tissue.info),
        "patches": len(cutting.written),
        "tiles": {
            "passed": passed,
            "encoded": len(cutting.written) - passed,
            "glass": windows.skipped,
            "glass_test": windows.glass.info(),
        },
        **({"quality": _quality(cutting, looked_at, dropped)} if looked_at else {}),
        "tissue_um2": tissue.area_um2,
        "bad_tiles": bad_tile_facts(bad),
        "peak_rss_mb": round(peak_rss_mb(), 1),
    }


def _quality(cutting: Cutting, looked_at: int, dropped: int) -> Record:
    return {"patches": looked_at, "dropped": dropped, "filter": cutting.config.qc, **cutting.quality.summary()}


def _remark(windows: Windows, cutting: Cutting, bad: int) -> tuple[str, str]:
    """What a user should know of a slide that did not fail, and what to do about it."""
    if bad:
        return (
            f"{bad} tile(s) of the file cannot be decoded",
            "copy or scan the slide again; patches that need these tiles are left out",
        )
    if len(windows.grid) and not cutting.written:
        return f"none of its {len(windows.grid)} patches passes the quality filter {cutting.config.qc}", ""
    if not len(windows.grid):
        return windows.why_none, "look at overview.png; a smaller --size, a lower --min-tissue or --edge pad find more"
    return "", ""


def draw(slide: Slide, slide_id: str, tissue: TissueMask, cutting: Cutting, path: Path) -> None:
    """``overview.png``: the slide, its tissue and the patches that were taken."""
    picture, mpp = overview_picture(slide)
    grid = cutting.windows.grid
    corners = grid.corners[cutting.written] * (grid.spec.mpp / slide.mpp)
    side = grid.spec.patch * grid.spec.mpp / slide.mpp
    scene = Scene(
        slide_id=slide_id,
        slide_mpp=slide.mpp,
        size=(slide.width, slide.height),
        picture=picture,
        picture_mpp=mpp,
        model=f"{grid.spec.patch} px",
        mpp=grid.spec.mpp,
        labels=(),
        tissue=tissue.polygons(slide),
        patches=Patches(np.concatenate([corners, corners + side], axis=1)),
        bad=[tile.level0() for tile in (*tissue.bad, *cutting.bad)],
    )
    draw_overview(scene, path)

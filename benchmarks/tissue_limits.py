"""What each limit of artefacts, tissue and sharpness does when it is moved: pictures free for any use only.

No picture of a folder whose name ends in ``_NC`` is read. Every limit is swept alone, the others as they are:

- clean: share of tissue (OD above 0.1) without ink that is taken for ink or for an edge; mean and worst picture.
- ink, edge: share of the pixels under HistoQC's masks that is called tissue, over all assumed resolutions.
- planted: share of planted ink that is called tissue, worst of the four inks.
- pale: share of almost-white tiles called tissue, and of stained pixels of tissue tiles (worst resolution of each).
- fold: share of tissue taken for a fold, worst picture, and share of planted folds found, worst picture.
- dab: chromaticity y of dense DAB, and the share of it that passes for black ink by colour alone.
- sharpness: lowest of patches in focus, highest of the same blurred by 1 and 1.5 um, by source.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import tissue_quality as bench
from scipy import ndimage

from wsikit import artefacts, tissue
from wsikit.artefacts import Colour, averaged, find_artefacts, find_fold, look_factor
from wsikit.quality import Quality
from wsikit.slides import Pixels, open_slide

SWEEPS: dict[str, tuple[float, ...]] = {
    "BLUE_GREEN": (0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6),
    "BLUE_GREEN_DENSITY": (0.1, 0.15, 0.2),
    "COVERED_X": (0.0, 0.1, 0.2, 0.25, 0.3),
    "COVERED_DENSITY": (0.15, 0.25, 0.35, 0.45),
    "BLACK_GREY": (0.2, 0.25, 0.3, 0.35, 0.4),
    "DARK_DENSITY": (0.25, 0.3, 0.4, 0.5, 0.6),
    "DARK_Y": (0.1, 0.14, 0.18, 0.24, 0.3),
    "DAB_Y": (-0.1, -0.06, -0.02, 0.0, 0.02),
    "BLACK_WIDTH_UM": (8, 40, 60, 90, 160),
    "EDGE_GLASS": (0.02, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
    "PALE_DENSITY": (0.04, 0.05, 0.06, 0.08, 0.1),
}
MPP = 2.0
FIELDS = (0.25, 0.5)


def clean(data: Path) -> Iterator[tuple[str, Pixels, float]]:
    """Name, pixels and assumed um per pixel of pictures without ink, each at about ``LOOK_MPP``."""
    tiles = [p for p in sorted((data / "tissue" / "histolab_tiles").glob("*level*.png")) if "pen" not in p.name]
    for path in tiles:
        times = 4 ** int(path.stem.split("level")[1][0])
        yield from _looked(path, [mpp * times for mpp in FIELDS])
    fields = [*(data / "tissue" / "he_tiles").iterdir(), *(data / "tissue" / "histoqc").glob("template*.png")]
    fields += [*(data / "ihc").glob("*.png"), *(data / "nuclei" / "dsb2018_he").glob("*[0-9a-f].png")]
    fields += [data / "nuclei" / "stardist_histo.jpg"]
    for path in sorted(p for p in fields if not p.stem.endswith("_labels")):
        yield from _looked(path, FIELDS)
    for path in sorted((data / "tissue" / "thumbs").glob("deep*.png")):
        yield from _looked(path, bench.OVERVIEW_MPP)
    for name in ("cmu-1-small-region.svs", "instanseg_HE_example.tif"):
        with open_slide(data / "slides" / name) as slide:
            pixels = slide.read(slide.plane(slide.mpp))
            yield name, averaged(pixels, look_factor(slide.mpp)), slide.mpp * look_factor(slide.mpp)


def _looked(path: Path, resolutions: object) -> Iterator[tuple[str, Pixels, float]]:
    pixels = bench.read(path)
    for mpp in resolutions:  # type: ignore[attr-defined]
        factor = look_factor(mpp)
        yield f"{path.stem[:24]} {mpp:g}", averaged(pixels, factor), mpp * factor


class Measured:
    """The pictures, read once."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.clean = list(clean(data))
        self.sample, self.mpp = bench.sample_pixels(data)
        strengths = [bench.stroke(self.sample.shape[:2], self.mpp, seed) for seed in (0, 1)]
        self.inked = [(bench.inked(self.sample, s, ink), s > 0.3) for ink in bench.INKS for s in strengths]

    def row(self) -> tuple[list[str], str]:
        """The figures with the limits as they are, and which clean picture is the worst."""
        taken = [self._taken(pixels, mpp) for _, pixels, mpp in self.clean]
        groups = {row.group: sum(row.counts, (0, 0)) for row in bench.artefacts(self.data)}
        shares = [sum(counts[::2]) / sum(counts[1::2]) for counts in groups.values()]
        planted = [float(tissue.detect(pixels, self.mpp)[0][where].mean()) for pixels, where in self.inked]
        figures = [float(np.mean(taken)), max(taken), *shares, max(planted)]
        return [f"{figure:.2%}" for figure in figures], self.clean[int(np.argmax(taken))][0]

    @staticmethod
    def _taken(pixels: Pixels, mpp: float) -> float:
        found = find_artefacts(pixels, mpp)
        stained = Colour.of(pixels).density > 0.1
        return float((found.pen | found.edge)[stained].mean()) if stained.any() else 0.0


def pale(data: Path) -> Iterator[str]:
    """``PALE_SATURATION`` against almost-white tiles and stained tissue."""
    for value in (0.04, 0.05, 0.055, 0.06, 0.065, 0.07, 0.08, 0.1):
        with patch.object(tissue, "PALE_SATURATION", value):
            empty, kept = list(bench.empty_tiles(data)), list(bench.tissue_tiles(data))
        worst = max(max(row.shares) for row in empty)
        pieces = [max(bench.pooled(empty)), worst, min(bench.pooled(kept))]
        yield f"| {value:g} | " + " | ".join(f"{v:.2%}" for v in pieces) + " |"


def folds(measured: Measured) -> Iterator[str]:
    """``FOLD_DENSITY`` against tissue of one layer and of two."""
    for value in (0.45, 0.5, 0.55, 0.6, 0.65, 0.7):
        once, twice = [], []
        with patch.object(artefacts, "FOLD_DENSITY", value):
            for name, pixels, mpp in measured.clean:
                if min(pixels.shape[:2]) < 8:
                    continue
                double = np.rint((pixels / 255.0) ** 2 * 255).astype(np.uint8)
                stained = Colour.of(pixels).density > 0.25
                if stained.mean() > 0.2:
                    once.append((float(find_fold(Colour.of(pixels), mpp)[stained].mean()), name))
                    twice.append((float(find_fold(Colour.of(double), mpp)[stained].mean()), name))
        shares = [float(np.median([v for v, _ in twice])), min(twice)[0]]
        ranked = sorted(once)[::-1]
        yield (
            f"| {value:g} | {np.mean([v for v, _ in once]):.1%} | "
            + ", ".join(f"{n} {v:.1%}" for v, n in ranked[:3])
            + f" | {shares[0]:.1%} | {shares[1]:.1%} |"
        )


SHARP = {
    "tissue/he_tiles/TCGA-AD-6964-01Z-00-DX1_Tile_22016_11776.jpg": 0.5,
    "tissue/he_tiles/henorm_example1.png": 0.25,
    "tissue/he_tiles/TUPAC-TR-002_x33793_y33799.png": 0.25,
    "tissue/he_tiles/torchstain_source.png": 0.5,
    "tissue/histoqc/template1.png": 0.5,
    "tissue/histolab_tiles/high-nuclei-score-level0.png": 0.25,
    "tissue/histolab_tiles/medium-nuclei-score-level0.png": 0.25,
    "ihc/skimage_immunohistochemistry.png": 0.5,
    "nuclei/stardist_histo.jpg": 0.5,
    "slides/cmu-1-small-region.svs": 0.499,
    "tissue/histolab_tiles/very-low-nuclei-score-level0.png": 0.25,
}
"""The last one is pale and without structure: docs/measured.md tells of it apart."""


def sharpness(data: Path) -> Iterator[str]:
    """In focus and blurred, by source."""
    for name, mpp in SHARP.items():
        if name.endswith(".svs"):
            with open_slide(data / name) as slide:
                pixels = slide.read(slide.plane(slide.mpp))
        else:
            pixels = bench.read(data / name)
        cells = []
        for sigma in (0.0, 0.5, 1.0, 1.5):
            soft = ndimage.gaussian_filter(pixels.astype(np.float32), (sigma / mpp, sigma / mpp, 0))
            found = Quality.of(_pieces(np.rint(soft).astype(np.uint8), pixels), mpp).sharpness
            cells.append(f"{found.min():.1f} to {found.max():.1f}")
        yield f"| {Path(name).stem[:28]} | " + " | ".join(cells) + " |"


def _pieces(pixels: Pixels, original: Pixels, side: int = 256) -> list[Pixels]:
    """Squares of which more than half is stained."""
    rows, columns = (range(0, n - side + 1, side) for n in pixels.shape[:2])
    corners = [(y, x) for y in rows for x in columns if (original[y : y + side, x : x + side, 1] < 200).mean() > 0.5]
    return [pixels[y : y + side, x : x + side] for y, x in corners]


def dab(data: Path) -> Iterator[str]:
    """Of skimage's IHC field, taken for 0.5 um per pixel, at the finest and the coarsest that colours are judged at."""
    pixels = bench.read(data / "ihc" / "skimage_immunohistochemistry.png")
    for mpp in (4.0, 8.0):
        colour = Colour.of(averaged(pixels, int(mpp / 0.5)))
        for density in (0.35, 0.4, 0.5):
            y = colour.y[colour.density > density]
            ink, more = (float(((y < artefacts.DARK_Y) & (y > low)).mean()) for low in (artefacts.DAB_Y, -0.06))
            middle, most = np.percentile(y, [50, 99])
            yield f"| {density:g}, {mpp:g} um | {middle:.3f} | {most:.3f} | {ink:.2%} | {more:.2%} |"


def heads(title: str, rest: str) -> str:
    """The first two lines of a table."""
    return f"| {title} | {rest} |\n|" + "---|" * (rest.count("|") + 2)


def main() -> None:
    data = Path(sys.argv[1])
    print(heads("sharpness", "in focus | 0.5 um | 1 um | 1.5 um"), *sharpness(data), "", sep="\n")
    print(heads("dab, density from", "y: median | 99 % | passes for ink | from y -0.06"), *dab(data), "", sep="\n")
    print(heads("PALE_SATURATION", "empty, pooled | worst tile | stained kept"), *pale(data), "", sep="\n")
    measured = Measured(data)
    columns = "one layer: mean | worst three | two layers: median | worst"
    print(heads("FOLD_DENSITY", columns), *folds(measured), "", sep="\n")
    for name, values in SWEEPS.items():
        print(heads(name, "clean: mean | worst | ink green | ink red | edge | planted, worst | worst clean picture"))
        for value in values:
            with patch.object(artefacts, name, value):
                figures, worst = measured.row()
            print(f"| {value:g} | " + " | ".join([*figures, worst]) + " |", flush=True)
        print()


if __name__ == "__main__":
    main()

"""How well tissue is told from glass, pens and cover-slip edges: `python benchmarks/tissue_quality.py DATA`.

DATA is the folder that holds ``tissue/`` (histoqc with its masks, histolab_tiles) and ``slides/``. What is measured:

1. Artefact pixels called tissue, in overviews with a mask of their pen marks or cover-slip edge.
2. Tiles without tissue, or almost: pixels called tissue.
3. Tiles of tissue: stained pixels (green OD above 0.15, which is another rule than the detector's) called tissue.
4. Pen strokes planted on the sample slide, four colours, several seeds: ink called tissue, and tissue kept.

The pictures do not say their resolution. Overviews are taken for 8 to 24 um per pixel; tiles, whose names say their
level, for 0.25 and 0.5 um at level 0, four times that at level 1 and sixteen times at level 2; tiles without tissue for
0.5 to 4 um. Each figure is given for all of these. `--sheet FILE` draws the planted strokes with the outlines found,
`--pictures FILE` the measured pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from wsikit.pipeline.lettering import write
from wsikit.slides import open_slide
from wsikit.slides.array import array_slide
from wsikit.tissue import find_tissue

Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]

MASKED = {
    "pen, green": ("pen_green.png", "pen_green_mask.png"),
    "pen, red": ("pen_red.png", "pen_red_mask.png"),
    "cover-slip edge": ("coverslip_edge_he_coverslip_edge.png", "coverslip_edge_he_coverslip_edge_mask.png"),
}
OVERVIEW_MPP = (8.0, 12.0, 16.0, 24.0)
EMPTY = ("almost-white-1", "almost-white-2", "no-tissue-line", "no-tissue-red-pen", "no-tissue2")
EMPTY_MPP = (0.5, 1.0, 2.0, 4.0)
LEVEL0_MPP = (0.25, 0.5)
STAINED_OD = 0.15
INKS = {"red": (200, 25, 55), "green": (25, 135, 105), "blue": (35, 90, 185), "black": (35, 33, 36)}
"""RGB of a stroke of full strength on white."""
STROKE_UM = 300.0
SEEDS = range(6)


@dataclass(frozen=True)
class Row:
    """One picture: a share per assumed resolution."""

    group: str
    name: str
    counts: tuple[tuple[int, int], ...]
    """(pixels called tissue, pixels) for each resolution."""

    @property
    def shares(self) -> list[float]:
        return [found / max(total, 1) for found, total in self.counts]


def read(path: Path) -> Pixels:
    return np.asarray(Image.open(path).convert("RGB"))


def called_tissue(pixels: Pixels, mpp: float) -> Mask:
    """(H, W) what ``find_tissue`` says of a picture of this resolution."""
    slide = array_slide(pixels, mpp)
    return find_tissue(slide).sample(slide.plane(mpp))


def _row(group: str, name: str, pixels: Pixels, where: Mask, resolutions: Sequence[float]) -> Row:
    found = (called_tissue(pixels, mpp) for mpp in resolutions)
    return Row(group, name, tuple((int((mask & where).sum()), int(where.sum())) for mask in found))


def artefacts(data: Path) -> Iterator[Row]:
    """Masked artefact pixels called tissue."""
    folder = data / "tissue" / "histoqc"
    for name, (picture, mask) in MASKED.items():
        where = np.asarray(Image.open(folder / mask).convert("L")) > 0
        yield _row(name, picture, read(folder / picture), where, OVERVIEW_MPP)


def empty_tiles(data: Path) -> Iterator[Row]:
    """Pixels of tiles without tissue called tissue."""
    for name in EMPTY:
        pixels = read(data / "tissue" / "histolab_tiles" / f"{name}.png")
        yield _row("no tissue", name, pixels, np.ones(pixels.shape[:2], bool), EMPTY_MPP)


def tissue_tiles(data: Path) -> Iterator[Row]:
    """Stained pixels of tiles of tissue called tissue."""
    for path in sorted((data / "tissue" / "histolab_tiles").glob("*level*.png")):
        if "pen" not in path.name:
            pixels = read(path)
            times = 4 ** int(path.stem.split("level")[1][0])
            stained = pixels[..., 1] < 255 * 10**-STAINED_OD
            yield _row("tissue", path.stem, pixels, stained, [mpp * times for mpp in LEVEL0_MPP])


def pooled(rows: Sequence[Row]) -> list[float]:
    """Share over all pixels of several pictures, per resolution."""
    together = np.array([row.counts for row in rows]).sum(axis=0)
    return [float(found / total) for found, total in together]


def stroke(shape: tuple[int, int], mpp: float, seed: int) -> NDArray[np.float64]:
    """(H, W) strength of ink, 0 to about 1: a curved stroke across the picture, uneven, its rim blurred."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    height, width = shape
    t = np.linspace(0, 1, 60)
    ends = rng.uniform(0.1, 0.9, 4)
    bend = rng.uniform(-0.2, 0.2) * np.sin(np.pi * t)
    x, y = (ends[0] + (ends[1] - ends[0]) * t + bend) * width, t * height
    if seed % 2:
        x, y = t * width, (ends[2] + (ends[3] - ends[2]) * t + bend) * height
    canvas = Image.new("L", (width, height))
    ImageDraw.Draw(canvas).line(list(zip(x, y, strict=True)), fill=255)
    inside = ndimage.distance_transform_edt(np.asarray(canvas) == 0) * mpp < STROKE_UM / 2
    ink = ndimage.gaussian_filter(inside.astype(float), 12 / mpp)
    uneven = ndimage.gaussian_filter(rng.normal(size=shape), 60 / mpp)
    return np.clip(ink * (0.85 + 0.1 * uneven / uneven.std()), 0, None)


def inked(pixels: Pixels, strength: NDArray[np.float64], ink: str) -> Pixels:
    """A picture with ink on it: the ink passes a share of each channel's light, by Beer-Lambert."""
    passed = (np.array(INKS[ink]) / 255) ** strength[..., None]
    return np.rint(pixels * passed).astype(np.uint8)


def sample_pixels(data: Path, mpp: float = 2.0) -> tuple[Pixels, float]:
    """The sample slide at about this resolution."""
    with open_slide(data / "slides" / "cmu-1-small-region.svs") as slide:
        at = slide.resolve(mpp)
        return slide.read(slide.plane(at)), at


def planted(data: Path) -> Iterator[tuple[str, list[float], list[float]]]:
    """Ink, share of its pixels called tissue, share of the tissue away from it kept; one of each per seed."""
    from scipy import ndimage

    pixels, mpp = sample_pixels(data)
    tissue = called_tissue(pixels, mpp)
    for ink in INKS:
        wrong, kept = [], []
        for seed in SEEDS:
            strength = stroke(pixels.shape[:2], mpp, seed)
            found = called_tissue(inked(pixels, strength, ink), mpp)
            away = ndimage.distance_transform_edt(strength < 0.05) * mpp > 60
            wrong.append(float(found[strength > 0.3].mean()))
            kept.append(float(found[tissue & away].mean()))
        yield ink, wrong, kept


def outlined(pixels: Pixels, mpp: float, side: int) -> Image.Image:
    """A picture with the outline of its tissue, at most ``side`` px."""
    from scipy import ndimage

    tissue = called_tissue(pixels, mpp)
    scale = max(1.0, max(pixels.shape[:2]) / side)
    border = tissue ^ ndimage.binary_erosion(tissue, iterations=max(1, round(1.5 * scale)), border_value=1)
    drawn = pixels.copy()
    drawn[border] = (0, 110, 255)
    image = Image.fromarray(drawn)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def sheet(panels: Sequence[tuple[str, Pixels, float]], columns: int, side: int, colours: int = 128) -> Image.Image:
    """Pictures with their outlines, a title above each."""
    images = [(title, outlined(pixels, mpp, side)) for title, pixels, mpp in panels]
    width, height = max(i.width for _, i in images) + 8, max(i.height for _, i in images) + 22
    page = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    pen = ImageDraw.Draw(page)
    for k, (title, image) in enumerate(images):
        x, y = k % columns * width + 4, k // columns * height
        write(pen, (x, y + 2), title, 13)
        page.paste(image, (x, y + 18))
    return page.quantize(colours)


def planted_panels(data: Path) -> list[tuple[str, Pixels, float]]:
    """The sample slide as it is, with a stroke of each ink, and with the edge of a cover slip."""
    pixels, mpp = sample_pixels(data)
    panels = [("as scanned", pixels, mpp)]
    for seed, ink in enumerate(INKS):
        panels.append((f"{ink} pen", inked(pixels, stroke(pixels.shape[:2], mpp, seed), ink), mpp))
    return [*panels, planted_edge(pixels, mpp)]


def planted_edge(pixels: Pixels, mpp: float) -> tuple[str, Pixels, float]:
    """A picture with a slanting dark line without colour, about 20 um wide."""
    x = np.arange(pixels.shape[1]) * mpp - 80 - 0.03 * mpp * np.arange(pixels.shape[0])[:, None]
    passed = 1 - 0.9 * np.exp(-((x / 10) ** 2))
    return "cover-slip edge", (pixels * passed[..., None]).astype(np.uint8), mpp


def measured_panels(data: Path) -> list[tuple[str, Pixels, float]]:
    """All that is measured, each at one of its assumed resolutions, and the overviews without a mask."""
    tissue = data / "tissue"
    panels = [(picture[:30], read(tissue / "histoqc" / picture), 16.0) for picture, _ in MASKED.values()]
    panels += [(path.stem[:30], read(path), 16.0) for path in sorted((tissue / "thumbs").glob("*rgb_d*.png"))]
    panels += [(path.stem[:30], read(path), 16.0) for path in sorted((tissue / "thumbs").glob("deep*.png"))]
    panels += [("histolab wsi-blue-pen", read(tissue / "thumbs" / "histolab_rgb_wsi-blue-pen.png"), 16.0)]
    panels += [("histolab tcga-green-pen", read(tissue / "thumbs" / "histolab_rgb_tcga-green-pen.png"), 2.0)]
    for path in sorted((tissue / "histolab_tiles").glob("*.png")):
        level = int(path.stem.split("level")[1][0]) if "level" in path.stem else 2
        panels.append((path.stem[-30:], read(path), LEVEL0_MPP[0] * 4**level))
    return panels


def table(title: str, rows: Sequence[Row], resolutions: Sequence[float | str]) -> str:
    """Markdown."""
    lines = [f"| {title} | " + " | ".join(f"{r:g} um" if isinstance(r, float) else r for r in resolutions) + " |"]
    lines += ["|" + "---|" * (len(resolutions) + 1)]
    lines += [f"| {row.name} | " + " | ".join(f"{share:.1%}" for share in row.shares) + " |" for row in rows]
    lines += ["| all pixels together | " + " | ".join(f"{share:.1%}" for share in pooled(rows)) + " |"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sheet", type=Path, help="PNG of planted strokes on the sample slide, with outlines")
    parser.add_argument("--pictures", type=Path, help="PNG of the measured pictures, with outlines")
    words = parser.parse_args()
    drawings: list[tuple[Path | None, Callable[[Path], list[tuple[str, Pixels, float]]], int, int]] = [
        (words.sheet, planted_panels, 6, 300),
        (words.pictures, measured_panels, 7, 260),
    ]
    for path, panels, columns, side in drawings:
        if path is not None:
            sheet(panels(words.data), columns, side).save(path, optimize=True)
    print(table("artefact called tissue", list(artefacts(words.data)), OVERVIEW_MPP), end="\n\n")
    print(table("tile without tissue called tissue", list(empty_tiles(words.data)), EMPTY_MPP), end="\n\n")
    levels = [f"level 0 at {mpp:g} um" for mpp in LEVEL0_MPP]
    print(table("stained pixels called tissue", list(tissue_tiles(words.data)), levels), end="\n\n")
    print("| planted ink | called tissue: mean | worst | other tissue kept: mean | worst |\n|---|---|---|---|---|")
    for ink, wrong, kept in planted(words.data):
        print(f"| {ink} | {np.mean(wrong):.1%} | {max(wrong):.1%} | {np.mean(kept):.1%} | {min(kept):.1%} |")


if __name__ == "__main__":
    main()

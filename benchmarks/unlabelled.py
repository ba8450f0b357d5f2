"""What the model `nuclei` learned other laboratories from, without labels: `python benchmarks/unlabelled.py DATA OUT`.

DATA holds real slides and tiles of H&E under permissive licences (CC0, Apache-2.0, MIT, BSD). Pieces of them are
written as PNG of 0.25 um per px; what is coarser is resized.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from wsikit.geometry import Region
from wsikit.slides import Pixels, open_slide
from wsikit.slides.array import array_slide

MPP = 0.25
TILES = {
    "tissue/histolab_tiles/high-nuclei-score-level0.png": 0.25,
    "tissue/histolab_tiles/medium-nuclei-score-level0.png": 0.25,
    "tissue/histolab_tiles/very-low-nuclei-score-level0.png": 0.25,
    "tissue/he_tiles/henorm_example1.png": 0.2,
    "nuclei/stardist_histo.jpg": 0.25,
    "tissue/he_tiles/TCGA-AD-6964-01Z-00-DX1_Tile_16896_20480.jpg": 0.5,
    "tissue/he_tiles/TCGA-AD-6964-01Z-00-DX1_Tile_22016_11776.jpg": 0.5,
    "tissue/he_tiles/torchstain_source.png": 0.6,
    "tissue/he_tiles/torchstain_target.png": 0.6,
    "tissue/he_tiles/TUPAC-TR-002_x33793_y33799.png": 0.25,
    "tissue/he_tiles/slideflow_norm_tile.jpg": 0.5,
}
"""Their um per px, by the size of their nuclei: the files say none."""
SLIDES = {
    "slides/cmu-1-small-region.svs": ("cmu", ((200, 300), (1100, 1500), (300, 2200), (1500, 500))),
    "slides/instanseg_HE_example.tif": ("inst", ((100, 100), (800, 300), (300, 900))),
}
"""Slides of 0.5 um per px: name, and left upper corners of pieces, px."""
SIDE = 420
"""Of these pieces, px."""


def pieces(data: Path) -> Iterator[tuple[str, Pixels, float]]:
    """Name, pixels and um per px of each."""
    for name, mpp in TILES.items():
        with Image.open(data / name) as image:
            yield Path(name).stem, np.asarray(image.convert("RGB")), mpp
    for name, (short, corners) in SLIDES.items():
        with open_slide(data / name) as slide:
            for number, (x, y) in enumerate(corners):
                yield f"{short}{number}", slide.read(Region(x, y, SIDE, SIDE, slide.mpp)), 0.5


def main() -> None:
    """Write them."""
    data, out = map(Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    for name, pixels, mpp in pieces(data):
        at = max(mpp, MPP)
        slide = array_slide(pixels, mpp)
        image = Image.fromarray(slide.read(slide.plane(at)))
        size = tuple(round(length * at / MPP) for length in image.size)
        image.resize((size[0], size[1]), Image.Resampling.BICUBIC).save(out / f"{name}.png")


if __name__ == "__main__":
    main()

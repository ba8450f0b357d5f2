"""How well ``nuclei`` finds annotated nuclei: object F1 at an intersection over union of one half.

    python benchmarks/nuclei_quality.py [DATA]

DATA is the folder with ``nuclei/dsb2018_he`` and ``nuclei/monuseg_test_NC``, by default $WSIKIT_DATA. Outlines are
painted back at the image's own resolution and compared with the annotation; an intersection over union above one half
makes the match unique. DSB2018's images carry no resolution and are taken as 0.25 um per pixel. The constants of
``nuclei`` were chosen on every second image of DSB2018 in order of names, from the first; the figure to trust is that
of the others. MoNuSeg gave no constant, but its figures were seen while the method took shape.
"""

from __future__ import annotations

import os
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image
from skimage.draw import polygon as fill_polygon

from wsikit.predictions import Batch, Objects
from wsikit.predictors import load_predictor
from wsikit.slides.array import array_slide
from wsikit.tissue import TissueMask

MPP = 0.25


class Counts(NamedTuple):
    """Objects matched, predicted and annotated."""

    matched: int
    predicted: int
    annotated: int

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.matched / max(1, self.predicted + self.annotated)


def paint(rings: list[NDArray[np.float64]], shape: tuple[int, int]) -> NDArray[np.int64]:
    """Label image of rings of (x, y), pixel-corner convention."""
    labels = np.zeros(shape, np.int64)
    for label, ring in enumerate(rings, start=1):
        rows, columns = fill_polygon(ring[:, 1] - 0.5, ring[:, 0] - 0.5, shape)
        labels[rows, columns] = label
    return labels


def segment(image: NDArray[np.uint8], mpp: float) -> NDArray[np.int64]:
    """Label image, at the image's resolution, of what ``nuclei`` finds when it works at ``mpp``."""
    slide = array_slide(image, MPP, is_field=True)
    predictor = load_predictor("nuclei", mpp=mpp).prepare(slide, TissueMask.whole(slide))
    region = slide.plane(slide.resolve(mpp)).padded(predictor.tile.halo)
    (found,) = predictor.predict(Batch(slide.read(region)[None], (region,)))
    assert isinstance(found, Objects)
    scale = region.mpp / MPP
    corner = np.array([region.x, region.y])
    rings = [(shapely.get_coordinates(p.exterior) + corner) * scale for p in found.outlines]
    return paint(rings, image.shape[:2])


def compare(found: NDArray[np.int64], truth: NDArray[np.int64]) -> Counts:
    """Match two label images one to one."""
    n, m = int(found.max()) + 1, int(truth.max()) + 1
    joint = np.bincount((found * m + truth).ravel(), minlength=n * m).reshape(n, m)
    predicted, annotated = joint.sum(axis=1)[1:, None], joint.sum(axis=0)[None, 1:]
    common = joint[1:, 1:]
    matched = common > 0.5 * (predicted + annotated - common)
    return Counts(int(matched.sum()), int((predicted > 0).sum()), int((annotated > 0).sum()))


def dsb2018(data: Path) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Images and instance labels of DSB2018's purple histology, in order of names."""
    for labels in sorted((data / "nuclei" / "dsb2018_he").glob("*_labels.png")):
        image = Image.open(labels.with_name(labels.name.replace("_labels", ""))).convert("RGB")
        yield np.asarray(image), np.asarray(Image.open(labels)).astype(np.int64)


def monuseg(data: Path) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Images and painted polygons of the MoNuSeg test set (non-commercial: for evaluation only)."""
    for xml in sorted((data / "nuclei" / "monuseg_test_NC").glob("*.xml")):
        image = np.asarray(Image.open(xml.with_suffix(".tif")).convert("RGB"))
        rings = [
            np.array([(float(v.attrib["X"]), float(v.attrib["Y"])) for v in region.iter("Vertex")])
            for region in ET.parse(xml).iter("Region")
        ]
        yield image, paint([ring for ring in rings if len(ring) > 2], image.shape[:2])


def report(name: str, items: list[tuple[NDArray[np.uint8], NDArray[np.int64]]], mpp: float) -> None:
    """Print one line: pooled F1, mean F1 of the images, and speed."""
    started = time.perf_counter()
    counts = [compare(segment(image, mpp), truth) for image, truth in items]
    seconds = time.perf_counter() - started
    total = Counts(*(sum(column) for column in zip(*counts, strict=True)))
    mean = sum(c.f1 for c in counts) / len(counts)
    print(
        f"{name:24s} at {mpp:.2f} um/px: F1 {total.f1:.3f} pooled, {mean:.3f} mean of {len(counts)} images "
        f"({total.matched} of {total.predicted} found, {total.annotated} annotated; {seconds:.1f} s)"
    )


def main() -> None:
    """Print object F1 for both data sets at 0.5 and 0.25 um per pixel."""
    given = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("WSIKIT_DATA")
    if given is None:
        sys.exit("give the data folder as argument or in WSIKIT_DATA")
    dsb, mono = list(dsb2018(Path(given))), list(monuseg(Path(given)))
    for mpp in (0.5, 0.25):
        report("DSB2018, chosen on", dsb[::2], mpp)
        report("DSB2018, held out", dsb[1::2], mpp)
        report("DSB2018, all", dsb, mpp)
        report("MoNuSeg test", mono, mpp)


if __name__ == "__main__":
    main()

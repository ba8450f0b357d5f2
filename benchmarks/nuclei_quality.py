"""How well ``nuclei`` finds annotated nuclei, beside what a few lines of scikit-image find.

    python benchmarks/nuclei_quality.py [DATA]

DATA is the folder with ``nuclei/dsb2018_he`` and ``nuclei/monuseg_test_NC``, by default $WSIKIT_DATA. Both models go
through ``wsikit evaluate``'s own function. DSB2018's images carry no resolution and are taken as 0.25 um per pixel. The
constants of ``nuclei`` were chosen on every second image of DSB2018 in order of names, from the first; the figure to
trust is that of the others. MoNuSeg (non-commercial: for evaluation only) gave no constant, but its figures were seen
while the method took shape. The other model's constants were chosen on the same half, among 18 settings.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.feature import peak_local_max
from skimage.filters import gaussian, threshold_otsu
from skimage.morphology import remove_small_objects
from skimage.segmentation import watershed

from wsikit.geometry import Region, TileSpec
from wsikit.outlines import moments, outlines
from wsikit.pipeline.evaluate import Evaluation, Settings, evaluate
from wsikit.predictions import Batch, Label, Objects, Predictor
from wsikit.predictors import load_predictor
from wsikit.slides import Slide
from wsikit.tissue import TissueMask

METRICS = ("object_f1", "pq", "aji", "aji_plus", "dice", "detection_f1")


@dataclass(frozen=True)
class OtsuWatershed:
    """The few lines: Otsu on haematoxylin, then the watershed of the distance to the background."""

    mpp: float = 0.25
    threshold: float = np.nan

    name: ClassVar[str] = "otsu-watershed"
    produces: ClassVar[type[Objects]] = Objects
    labels: ClassVar[tuple[Label, ...]] = (Label("Nucleus", (200, 0, 0)),)
    identity: ClassVar[Mapping[str, Any]] = {}

    @property
    def tile(self) -> TileSpec:
        """Windows as large as those of ``nuclei``."""
        return TileSpec(self.mpp, core=1024, halo=64)

    @property
    def bound(self) -> Mapping[str, Any]:
        """The threshold."""
        return {"threshold": self.threshold}

    def prepare(self, slide: Slide, tissue: TissueMask) -> Self:
        """Otsu over the whole image."""
        mpp = slide.resolve(self.mpp)
        pixels = slide.read(slide.plane(mpp))
        return replace(self, mpp=mpp, threshold=float(threshold_otsu(self._stain(pixels))))

    def _stain(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        smooth: NDArray[np.float64] = gaussian(rgb2hed(pixels)[..., 0], 0.25 / self.mpp)
        return smooth

    def predict(self, batch: Batch) -> list[Objects]:
        """One patch after another."""
        return [self._one(pixels, region) for pixels, region in zip(batch.images, batch.regions, strict=True)]

    def _one(self, pixels: NDArray[np.uint8], region: Region) -> Objects:
        mask = remove_small_objects(self._stain(pixels) > self.threshold, max_size=int(6 / self.mpp**2))
        mask = ndimage.binary_fill_holes(mask)
        distance = gaussian(ndimage.distance_transform_edt(mask), 0.5 / self.mpp)
        peaks = peak_local_max(
            distance, min_distance=int(1.25 / self.mpp), labels=mask.astype(int), exclude_border=False
        )
        seeds = np.zeros(mask.shape, np.int32)
        seeds[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        found = watershed(-distance, seeds, mask=mask)
        ids, shapes = outlines(found)
        count = len(ids)
        sums = moments(found, len(peaks))[ids - 1]
        return Objects(region, shapes, np.zeros(count, np.int64), np.ones(count), sums)


def report(name: str, model: str, mpp: float, evaluation: Evaluation) -> None:
    """Print one line: figures of all objects together, and mean object F1 of the images."""
    metrics = evaluation.metrics()
    figures = ", ".join(f"{metric} {metrics[metric].pooled:.3f}" for metric in METRICS)
    mean = metrics["object_f1"].mean
    print(f"{name:20s} {model:15s} {mpp:.2f} um/px: {figures}; object_f1 {mean:.3f} mean of {len(evaluation.images)}")


def main() -> None:
    """Print figures for both data sets and models at 0.5 and 0.25 um per pixel."""
    given = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("WSIKIT_DATA")
    if given is None:
        sys.exit("give the data folder as argument or in WSIKIT_DATA")
    for mpp in (0.5, 0.25):
        models: list[Predictor] = [load_predictor("nuclei-classical", mpp=mpp), OtsuWatershed(mpp)]
        for model in models:
            settings = Settings(mpp_override=0.25)
            dsb = evaluate(model, Path(given) / "nuclei" / "dsb2018_he", settings=settings)
            report("DSB2018, chosen on", model.name, mpp, replace(dsb, images=dsb.images[::2]))
            report("DSB2018, held out", model.name, mpp, replace(dsb, images=dsb.images[1::2]))
            report("DSB2018, all", model.name, mpp, dsb)
            monuseg = evaluate(model, Path(given) / "nuclei" / "monuseg_test_NC", settings=settings)
            report("MoNuSeg test", model.name, mpp, monuseg)


if __name__ == "__main__":
    main()

"""Stain normalisation: how fast, how near the reference, and how near torchstain's way comes.

    python benchmarks/stain.py [DATA]

DATA is the folder with ``tissue/he_tiles`` and ``tissue/histoqc``, by default $WSIKIT_DATA. Nine H&E tiles of several
laboratories, every one made to look like every other (72 pairs), each by its own profile. Two distances between a tile
and the reference, before and after, over the pixels that hold stain: of the mean optical density (OD), and of all ODs
(Wasserstein, mean of the channels). Torchstain (numpy backend) is measured the same way; it fits every image anew, so
which its speed includes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchstain.numpy.normalizers import NumpyMacenkoNormalizer, NumpyReinhardNormalizer

from wsikit.stain import STAINS
from wsikit.stain.augment import augment
from wsikit.stain.density import absorption, stained_pixels

Pixels = NDArray[np.uint8]
Transform = Callable[[Pixels], Pixels]


def tiles(data: Path) -> list[Pixels]:
    """The nine tiles, RGB."""
    paths = sorted((data / "tissue" / "he_tiles").iterdir()) + sorted((data / "tissue" / "histoqc").glob("template*"))
    return [np.asarray(Image.open(path).convert("RGB")) for path in paths]


def ours(method: str) -> Callable[[Pixels], Transform]:
    """Reference -> transform of an image by its own profile."""
    kind = STAINS.load(method)
    return lambda reference: kind.fit(reference).transform


def theirs(kind: type, **options: bool) -> Callable[[Pixels], Transform]:
    """The same with torchstain."""

    def fitted(reference: Pixels) -> Transform:
        normalizer = kind()
        normalizer.fit(reference)

        def transform(image: Pixels) -> Pixels:
            found = normalizer.normalize(image, **options)
            return np.asarray(found[0] if isinstance(found, tuple) else found)

        return transform

    return fitted


def distances(one: Pixels, two: Pixels) -> tuple[float, float]:
    """Of the mean OD, and of all ODs."""
    a, b = (absorption(stained_pixels(image)) for image in (one, two))
    steps = np.linspace(0.5, 99.5, 200)
    difference = np.percentile(a, steps, axis=0) - np.percentile(b, steps, axis=0)
    return float(np.linalg.norm(a.mean(axis=0) - b.mean(axis=0))), float(np.abs(difference).mean())


def nearness(name: str, images: list[Pixels], method: Callable[[Pixels], Transform]) -> None:
    """Print what is left of both distances."""
    rows = []
    for image, reference in permutations(images, 2):
        moved = method(reference)(image)
        rows.append(np.divide(distances(moved, reference), distances(image, reference)))
    left = np.array(rows)
    for column, measure in enumerate(("mean OD", "all ODs")):
        part = left[:, column]
        print(
            f"{name:20s} {measure}: {part.mean():.2f} of the distance is left on average, "
            f"{np.median(part):.2f} in the median, {part.max():.2f} in the worst of {len(part)} pairs"
        )


def rate(transform: Transform, image: Pixels) -> float:
    """Megapixels per processor second, the best of five: the clock on the wall would also measure what else runs."""
    seconds = []
    for _ in range(5):
        started = time.process_time()
        transform(image)
        seconds.append(time.process_time() - started)
    return image.size / 3e6 / min(seconds)


def speed(images: list[Pixels]) -> None:
    """Print megapixels per second of one core on 4 megapixels."""
    big, reference = np.tile(max(images, key=len), (2, 2, 1)), images[-1]
    for method, kind, options in (
        ("macenko", NumpyMacenkoNormalizer, {"stains": False}),
        ("reinhard", NumpyReinhardNormalizer, {}),
    ):
        target = STAINS.load(method).fit(reference)
        source = STAINS.load(method).fit(big)
        target.transform(big[:8], source)  # the table is made once per slide
        known = rate(lambda image, target=target, source=source: target.transform(image, source), big)
        fitted = rate(theirs(kind, **options)(reference), big)
        print(
            f"{method:20s} {known:.1f} MP/s with the slide's profile; torchstain {fitted:.2f} ({known / fitted:.0f} x)"
        )
    patches = np.stack([big[y : y + 256, x : x + 256] for y in range(0, 1024, 256) for x in range(0, 1024, 256)])
    for side, batch in ((256, patches), (1024, big[None, :1024, :1024])):
        rng = np.random.default_rng(0)
        flat = rate(lambda image, batch=batch, rng=rng: augment(batch, rng), batch.reshape(-1, side, 3))
        print(f"augmentation         {flat:.1f} MP/s on patches of {side} px")


def main() -> None:
    """Print speed, then nearness."""
    given = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("WSIKIT_DATA")
    if given is None:
        sys.exit("give the data folder as argument or in WSIKIT_DATA")
    images = tiles(Path(given))
    speed(images)
    nearness("macenko", images, ours("macenko"))
    nearness("torchstain macenko", images, theirs(NumpyMacenkoNormalizer, stains=False))
    nearness("reinhard", images, ours("reinhard"))
    nearness("torchstain reinhard", images, theirs(NumpyReinhardNormalizer))


if __name__ == "__main__":
    main()

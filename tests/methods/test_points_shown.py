"""The stain of nuclei as a grey picture: the same for strong and weak stains, one or two of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from wsikit.methods.points.shown import NuclearStain, haematoxylin_weights
from wsikit.slides.array import array_slide
from wsikit.stain.density import EOSIN, HAEMATOXYLIN
from wsikit.tissue import TissueMask

BLUE, PINK, PURPLE = (np.array(stain) / np.linalg.norm(stain) for stain in (HAEMATOXYLIN, EOSIN, (0.45, 0.85, 0.2)))
MPP = 0.5


def section(
    seed: int, strength: float = 1.0, *, nuclear: NDArray[np.float64] = BLUE, eosin: float = 0.3
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Nuclei of 0.7 OD times the strength over ground of 0.1, with an uneven second stain; and where nuclei are."""
    rng = np.random.default_rng(seed)
    blobs, clouds = (ndimage.gaussian_filter(rng.standard_normal((256, 256)), 6) for _ in range(2))
    nuclei = blobs > np.quantile(blobs, 0.8)
    amounts = strength * np.where(nuclei, 0.7, 0.1)
    pink = eosin * strength * np.clip(1 + clouds / clouds.std(), 0, None) * ~nuclei
    density = amounts[..., None] * nuclear + pink[..., None] * PINK
    image = 255 * 10**-density + rng.normal(0, 2, density.shape)
    return np.clip(image, 0, 255).astype(np.uint8), nuclei


def read_image(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path).convert("RGB"))


def stain_of(image: NDArray[np.uint8]) -> NuclearStain:
    slide = array_slide(image, MPP)
    return NuclearStain.of(slide, TissueMask.whole(slide), MPP)


@pytest.mark.parametrize("seed", range(3))
def test_strong_and_weak_stains_of_one_kind_or_two_look_alike(seed: int) -> None:
    kinds = [
        section(seed, strength, nuclear=nuclear, eosin=eosin)
        for strength in (0.6, 1.0, 1.6)
        for nuclear, eosin in ((BLUE, 0.3), (PURPLE, 0.0))
    ]
    shown = [(stain_of(image).shown(image)[..., 0].astype(float), nuclei) for image, nuclei in kinds]
    dark = np.array([picture[nuclei].mean() for picture, nuclei in shown])
    pale = np.array([picture[~nuclei].mean() for picture, nuclei in shown])
    assert np.ptp(dark) < 35
    assert np.ptp(pale) < 35
    assert (pale - dark).min() > 80


@pytest.mark.parametrize("seed", range(3))
def test_beside_eosin_it_is_haematoxylin_and_eosin_is_not_seen(seed: int) -> None:
    image, nuclei = section(seed, eosin=0.5)
    stain = stain_of(image)
    assert stain.weights == tuple(haematoxylin_weights())
    ground = stain.density(image)[ndimage.binary_erosion(~nuclei, iterations=2)]
    assert ground.mean() == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize("seed", range(3))
def test_one_stain_alone_is_seen_by_its_own_hue_with_less_noise(seed: int) -> None:
    image, nuclei = section(seed, nuclear=PURPLE, eosin=0.0)
    slide = array_slide(image, MPP)
    own, other = stain_of(image), NuclearStain.haematoxylin(slide, TissueMask.whole(slide), MPP)
    assert np.array(own.weights) @ PURPLE == pytest.approx(1, abs=0.02)
    inside = ndimage.binary_erosion(nuclei, iterations=2)

    def noise(stain: NuclearStain) -> float:
        density = stain.density(image)
        return float(density[inside].std() / (density[inside].mean() - density[~nuclei].mean()))

    assert noise(own) < 0.8 * noise(other)


def test_a_slide_without_tissue_has_a_stain_as_well() -> None:
    white = np.full((64, 64, 3), 255, np.uint8)
    assert (stain_of(white).shown(white) == 255).all()


def test_purple_fields_hold_one_stain_and_h_and_e_two(data: Path) -> None:
    purple = sorted((data / "nuclei" / "dsb2018_he").glob("*[0-9a-f].png"))[::7]
    pink = [*sorted((data / "nuclei" / "monuseg_test_NC").glob("*.tif")), data / "nuclei" / "stardist_histo.jpg"]
    both = tuple(haematoxylin_weights())
    assert sum(stain_of(read_image(path)).weights != both for path in purple) >= len(purple) - 1
    assert all(stain_of(read_image(path)).weights == both for path in pink)

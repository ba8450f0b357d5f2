"""Macenko's stains on planted mixtures, against torchstain, and on real sections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.stain.mixtures import E, H, Pixels, degrees, image, section, seen, tiles
from wsikit.errors import StainError
from wsikit.stain.density import absorption, stained_pixels
from wsikit.stain.macenko import Macenko, basis


def amounts(profile: Macenko, pixels: Pixels) -> np.ndarray:  # type: ignore[type-arg]
    """(N, 3) haematoxylin, eosin and the rest."""
    return absorption(pixels.reshape(-1, 3)) @ np.linalg.inv(basis(np.array(profile.stains)))


def test_planted_stains_are_found() -> None:
    errors = []
    for share in (0.02, 0.1, 0.4, 0.8, 0.95):
        for seed in range(4):
            found = Macenko.fit(section(seed, share)).stains
            errors.append((degrees(found[0], H), degrees(found[1], E)))
    assert np.mean(errors) < 2
    assert np.max(errors) < 6


def test_planted_strengths_are_found() -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        planted = rng.uniform([0.0, 0.0], [1.6, 0.9], (60_000, 2))
        strong = Macenko.fit(seen(planted @ np.stack([H, E]), 1.0, rng)).strong
        np.testing.assert_allclose(strong, [1.6 * 0.99, 0.9 * 0.99], rtol=0.06)


def test_stains_never_swap_in_planted_mixtures() -> None:
    """Stain vectors up to 8 degrees off, 1 to 99 % nuclei, strong or pale in either stain."""
    fitted = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        stains = np.stack([H, E]) + rng.normal(0, 0.06, (2, 3))
        stains = np.maximum(stains, 0.01) / np.linalg.norm(stains, axis=1, keepdims=True)
        share = rng.choice([0.01, 0.03, 0.3, 0.7, 0.97, 0.99])
        strength = {"nucleus": rng.uniform(0.5, 1.6), "stroma": rng.uniform(0.3, 1.0)}
        try:
            found = Macenko.fit(section(seed, share, stains=stains, **strength)).stains
        except StainError:
            continue
        fitted += 1
        kept = degrees(found[0], stains[0]) + degrees(found[1], stains[1])
        swapped = degrees(found[0], stains[1]) + degrees(found[1], stains[0])
        assert kept < swapped, (seed, share)
    assert fitted >= 30


def test_stains_never_swap_on_real_sections(data: Path) -> None:
    """Whatever the piece: what absorbs more of the red is haematoxylin; and eosin, where both are there."""
    fitted = 0
    for name, tile in tiles(data).items():
        for seed in range(8):
            rng = np.random.default_rng(seed)
            y, x = (rng.integers(0, side - 200) for side in tile.shape[:2])
            piece = np.rot90(tile[y : y + 200, x : x + 200], seed % 4)
            try:
                profile = Macenko.fit(piece)
            except StainError:
                continue
            fitted += 1
            red = absorption(stained_pixels(piece))[:, 0]
            haematoxylin, eosin, _ = amounts(profile, stained_pixels(piece)).T
            assert np.corrcoef(haematoxylin, red)[0, 1] > np.corrcoef(eosin, red)[0, 1], (name, seed)
    assert fitted > 0.85 * 9 * 8


def test_carried_over_each_stain_stays_itself(data: Path) -> None:
    """A nucleus is still one: amounts after the transform go with the amounts of the same stain before it."""
    found = list(tiles(data).values())
    profiles = [Macenko.fit(tile) for tile in found]
    worst = 1.0
    for tile, source in zip(found, profiles, strict=True):
        piece = tile[::4, ::4].reshape(-1, 3)
        before = amounts(source, piece)
        for target in profiles:
            moved = np.clip(source.move(piece.astype(float), target), 0, 255)
            after = amounts(target, np.rint(moved).astype(np.uint8))
            for stain in (0, 1):
                own, other = (np.corrcoef(before[:, stain], after[:, k])[0, 1] for k in (stain, 1 - stain))
                assert own > other
                worst = min(worst, own)
    assert worst > 0.9


def test_the_order_of_pixels_does_not_matter(data: Path) -> None:
    tile = tiles(data)["template1.png"].reshape(-1, 3)
    fits = [Macenko.fit(np.random.default_rng(seed).permutation(tile)) for seed in range(3)]
    for fit in fits:
        np.testing.assert_allclose(fit.stains, Macenko.fit(tile).stains, atol=1e-5)


def dense_mixture(seed: int, strengths: tuple[float, float]) -> Pixels:
    """Pixels that torchstain and wsikit agree to be stained: every channel has OD 0.15 and more, none is black."""
    rng = np.random.default_rng(seed)
    planted = rng.uniform(0.05, 1.0, (40_000, 2)) * strengths
    pixels = seen(planted @ np.stack([H, E]), 0.0, rng)
    return pixels[(absorption(pixels).min(axis=1) >= 0.15) & (pixels.min(axis=1) >= 16)]


@pytest.mark.parametrize("seed", range(3))
def test_torchstain_finds_the_same_profile_and_colours(seed: int) -> None:
    """Where all densities lie in one plane through the origin, its way and this one are the same."""
    normalizers = pytest.importorskip("torchstain.numpy.normalizers", reason="torchstain is in the extra nn")
    source, reference = dense_mixture(seed, (1.5, 0.8)), dense_mixture(seed + 10, (1.1, 1.2))
    theirs = normalizers.NumpyMacenkoNormalizer()
    theirs.fit(reference[None])
    target = Macenko.fit(reference)
    np.testing.assert_allclose(np.array(target.stains).T, theirs.HERef, atol=0.01)
    np.testing.assert_allclose(target.strong, theirs.maxCRef, rtol=0.02)
    expected = theirs.normalize(source[None], stains=False)[0]
    difference = np.abs(target.transform(source[None]).astype(int) - expected)
    assert difference.mean() < 1.5
    assert np.percentile(difference, 99) <= 4


def test_one_stain_is_refused() -> None:
    for seed in range(4):
        for share, stroma in ((0.0, 0.8), (1.0, 1e-9)):
            with pytest.raises(StainError) as caught:
                Macenko.fit(section(seed, share, stroma=stroma, noise=1.0))
            assert caught.value.code == "one_stain", share


def test_grey_is_one_stain() -> None:
    grey = np.random.default_rng(0).integers(40, 200, (200, 200, 1), np.uint8)
    with pytest.raises(StainError, match="one stain"):
        Macenko.fit(np.repeat(grey, 3, axis=2))


@pytest.mark.parametrize("name", ["ihc/skimage_immunohistochemistry.png", "ihc/hoverfast_ihc_roi.png"])
def test_dab_is_not_bent_into_eosin(data: Path, name: str) -> None:
    with pytest.raises(StainError) as caught:
        Macenko.fit(image(data / name))
    assert caught.value.code == "not_he"


def test_green_ink_is_no_haematoxylin(data: Path) -> None:
    with pytest.raises(StainError) as caught:
        Macenko.fit(image(data / "tissue" / "histolab_tiles" / "medium-nuclei-score-green-pen-level1.png"))
    assert caught.value.code == "not_he"


def test_black_specks_do_not_set_the_strength(data: Path) -> None:
    tile = tiles(data)["template1.png"]
    inked = tile.copy()
    inked[:40, :] = np.random.default_rng(0).integers(0, 12, (40, 500, 3))
    np.testing.assert_allclose(Macenko.fit(inked).strong, Macenko.fit(tile[40:]).strong, rtol=0.01)


def test_fields_of_one_purple_dye_are_refused(data: Path) -> None:
    kept, codes = [], set()
    for path in sorted((data / "nuclei" / "dsb2018_he").glob("*.png")):
        if not path.stem.endswith("_labels"):
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
            try:
                Macenko.fit(pixels)
            except StainError as error:
                codes.add(error.code)
            else:
                kept.append(path.stem)
    assert codes == {"one_stain"}
    assert kept == ["87ea72894f6534b2", "8f27ebc74164eddf"], "the two fields that are haematoxylin and eosin"

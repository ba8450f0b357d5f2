"""Planted tissue for the segmentation from patch labels: patches whose pixels are known, and labels that say less.

``scenes``: textures of different grain and colour in smooth random regions; no files needed.

``painted``: what pathologists outlined (BCSS masks of TCGA-A2-A0YE: 14 fields of a grid of 20, and one large region),
painted with tissue of other slides. Of each class there are several source images, others for testing than for training
where there are enough. Tissue is laid in irregular pieces whose edges look like those between classes, so that a cut
says nothing; every piece and every patch has its own amount of stain, so that colour alone says little.

Truth is for scoring only. The same seed gives the same everywhere.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree

from wsikit.methods.cam_onss.classes import BCSS_WSSS, ClassSchema, Dialect, TissueClass
from wsikit.methods.cam_onss.masks import Mask, write_mask
from wsikit.slides import Pixels

PRESENT = 0.02
"""Smallest share of a patch's pixels that puts a class into its label."""
Split = Literal["train", "validation", "test"]


@dataclass(frozen=True, eq=False)
class PlantedPatch:
    """A patch and what is true of it."""

    image: Pixels
    """(H, W, 3) uint8."""
    truth: Mask
    """(H, W) class indices of its schema."""
    present: tuple[bool, ...]
    """(K,) the label: classes of at least ``PRESENT`` of the pixels."""
    slide: str = "scene"
    split: Split = "train"


def label_of(truth: Mask, classes: int) -> tuple[bool, ...]:
    """(K,) classes of at least ``PRESENT`` of the pixels."""
    shares = np.bincount(truth.ravel(), minlength=classes)[:classes] / truth.size
    return tuple(bool(share >= PRESENT) for share in shares)


# Textures that are drawn


@dataclass(frozen=True, slots=True)
class Texture:
    """Dark grains on a ground."""

    grain: float
    """Standard deviation of the noise that makes a grain, px: about a quarter of its width."""
    stretch: float
    """Length over width of grains."""
    density: float
    """Share of the area that is grain."""
    ground: tuple[int, int, int]
    dark: tuple[int, int, int]
    """RGB of ground and grains."""


TEXTURES = (
    Texture(2.0, 1.3, 0.42, (214, 168, 200), (112, 72, 140)),
    Texture(0.9, 5.0, 0.30, (226, 172, 200), (128, 80, 150)),
    Texture(0.9, 1.0, 0.55, (208, 166, 202), (104, 70, 142)),
    Texture(3.6, 1.6, 0.30, (220, 166, 192), (140, 84, 146)),
    Texture(1.7, 4.0, 0.55, (216, 172, 206), (120, 74, 138)),
    Texture(0.6, 1.0, 0.25, (222, 166, 196), (118, 78, 146)),
)
"""Large grains, thin fibres, small dense grains, coarse patches, thick fibres, dust."""
DISTINCT = (
    Texture(2.0, 1.3, 0.42, (206, 156, 194), (116, 66, 140)),
    Texture(0.9, 5.0, 0.30, (240, 172, 192), (214, 112, 150)),
    Texture(0.9, 1.0, 0.55, (160, 136, 204), (64, 52, 134)),
    Texture(3.6, 1.6, 0.30, (236, 216, 200), (192, 164, 150)),
)
"""The same, and of colours that differ as well."""


def schema_of(classes: int = 4, dialect: Dialect = "spaces") -> ClassSchema:
    """A schema of the first textures, A, B, ..., that excludes the index behind them."""
    colours = [(205, 51, 51), (0, 255, 0), (65, 105, 225), (255, 165, 0), (128, 0, 128), (0, 160, 160)]
    return ClassSchema(
        name=f"planted{classes}",
        classes=tuple(
            TissueClass(code=code, name=f"texture {code}", rgb=rgb, qupath_name=f"Texture {code}", qupath_rgb=rgb)
            for code, rgb in zip("ABCDEF"[:classes], colours, strict=False)
        ),
        excluded=classes,
        dialect=dialect,
    )


def scenes(
    seed: int,
    n: int,
    *,
    side: int = 64,
    classes: int = 4,
    single: float = 0.3,
    scale: tuple[float, float] = (0.75, 1.35),
    split: Split = "train",
    textures: Sequence[Texture] = TEXTURES,
) -> list[PlantedPatch]:
    """``n`` patches of one to three textures.

    Args:
        seed: of everything.
        n: number of patches.
        side: of the square patches, px.
        classes: K, 2 to 6.
        single: share of patches that hold one class alone.
        scale: range of the factor, drawn for each patch, by which its grains are larger.
        split: that they say.
        textures: of the classes.
    """
    rng = np.random.default_rng(seed)
    alone = rng.permutation(n) < round(single * n)
    return [scene(rng, 1 if one else int(rng.integers(2, 4)), side, classes, scale, split, textures) for one in alone]


def scene(
    rng: np.random.Generator,
    held: int,
    side: int = 64,
    classes: int = 4,
    scale: tuple[float, float] = (0.75, 1.35),
    split: Split = "train",
    textures: Sequence[Texture] = TEXTURES,
) -> PlantedPatch:
    """One patch with ``held`` classes in its label; of two or three, each has at least 8 % of it."""
    chosen = rng.permutation(classes)[: min(held, classes)]
    factor = float(np.exp(rng.uniform(*np.log(scale))))
    while True:
        fields = np.stack([_clouds(rng, (side, side), side / 7) for _ in chosen])
        owners = fields.argmax(axis=0)
        if np.bincount(owners.ravel(), minlength=len(chosen)).min() >= 0.08 * side**2:
            break
    truth = chosen[owners].astype(np.uint8)
    light = np.zeros((side, side, 3))
    for index in chosen.tolist():
        light[truth == index] = _drawn(rng, textures[index], side, factor)[truth == index]
    light = 255 * (np.clip(light, 1, 255) / 255) ** rng.uniform(0.75, 1.25, 3)
    image = np.clip(np.rint(light + rng.normal(0, 4, light.shape)), 0, 255).astype(np.uint8)
    return PlantedPatch(image, truth, label_of(truth, classes), split=split)


def _drawn(rng: np.random.Generator, texture: Texture, side: int, factor: float) -> NDArray[np.float64]:
    """(side, side, 3) light: grains all of one direction, since fibres run together."""
    short, angle = texture.grain * factor, rng.uniform(0, np.pi)
    v, u = np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side), indexing="ij")
    along, across = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    # the transfer function of a Gaussian, longer along the grain
    blur = np.exp(-2 * np.pi**2 * ((short * texture.stretch * along) ** 2 + (short * across) ** 2))
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(side, side))) * blur).real
    edge = np.quantile(noise, 1 - texture.density)
    dark = 1 / (1 + np.exp(-6 * (noise - edge) / noise.std()))
    ground, grain = np.array(texture.ground, float), np.array(texture.dark, float)
    return np.asarray(ground + (grain - ground) * dark[..., None])


def _clouds(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> NDArray[np.float64]:
    """Smooth noise of standard deviation 1."""
    noise = ndimage.gaussian_filter(rng.normal(size=shape), sigma, mode="wrap")
    return np.asarray(noise / noise.std())


# Noise of pseudo masks


def over_activated(
    patches: Sequence[PlantedPatch], share: float, seed: int, *, greedy: Sequence[int] = ()
) -> list[Mask]:
    """Masks as CAMs would have them: in patches of several classes one class has grown over its neighbours.

    Args:
        patches: with their truth.
        share: of the pixels of a patch of several classes that are wrong, at most 0.85 of what is not the grown class.
        seed: which class grows, and how unevenly.
        greedy: classes, the first of which that is present grows: what activates most wins wherever it is. Where
            none is, any one grows.
    """
    rng = np.random.default_rng(seed)
    return [_grown(rng, patch, share, greedy) if sum(patch.present) > 1 else patch.truth.copy() for patch in patches]


def _grown(rng: np.random.Generator, patch: PlantedPatch, share: float, greedy: Sequence[int]) -> Mask:
    present = np.flatnonzero(patch.present)
    grows = next((index for index in greedy if patch.present[index]), int(rng.choice(present)))
    outside = patch.truth != grows
    distance = ndimage.distance_transform_edt(outside) + 2 * _clouds(rng, patch.truth.shape, 3)
    count = min(round(share * outside.size), int(0.85 * outside.sum()))
    order = np.argsort(np.where(outside, distance, np.inf), axis=None)[:count]
    mask = patch.truth.copy()
    mask.ravel()[order] = grows
    return mask


def flipped(patches: Sequence[PlantedPatch], share: float, seed: int) -> list[Mask]:
    """Masks in which so many of the pixels of patches of several classes, anywhere, are of another present class."""
    rng = np.random.default_rng(seed)
    masks = []
    for patch in patches:
        mask, present = patch.truth.copy(), np.flatnonzero(patch.present)
        if len(present) > 1:
            for at in rng.permutation(mask.size)[: round(share * mask.size)]:
                mask.ravel()[at] = rng.choice(present[present != mask.ravel()[at]])
        masks.append(mask)
    return masks


def wrong_share(patches: Sequence[PlantedPatch], masks: Sequence[Mask], *, several: bool = True) -> float:
    """Share of wrong pixels; of patches of several classes only, or of all."""
    counted = [
        (patch.truth != mask).mean()
        for patch, mask in zip(patches, masks, strict=True)
        if not several or sum(patch.present) > 1
    ]
    return float(np.mean(counted)) if counted else 0.0


# Outlines of pathologists, tissue of other slides


REAL = ClassSchema(
    name="planted_bcss",
    classes=BCSS_WSSS.classes[:3],
    excluded=3,
    excluded_name="other",
    dialect="joined",
)
"""Tumour, stroma, lymphocytic infiltrate; necrosis is not in these masks."""
CODES = {1: 0, 2: 1, 3: 2}
"""Code of the BCSS masks -> class; all others (outside, excluded, acini, vessels) are excluded."""
MASK_MPP = 0.25
PIECE = 150
"""Pitch of the pieces of texture, px."""


@dataclass(frozen=True, slots=True)
class Source:
    """Tissue of one class in an image."""

    file: str
    """Below the data folder."""
    scale: float
    """By which it is resized for nuclei to be as large as at 0.5 um per px; by eye, where the image says nothing."""
    box: tuple[int, int, int, int] | None = None
    """Left, upper, right, lower px; None is all of it."""


_TILES, _HISTOLAB, _DSB = "tissue/he_tiles", "tissue/histolab_tiles", "nuclei/dsb2018_he"


def _dsb(*names: str, scale: float = 0.5) -> tuple[Source, ...]:
    return tuple(Source(f"{_DSB}/{name}.png", scale) for name in names)


TRAIN_SOURCES: tuple[tuple[Source, ...], ...] = (
    (
        Source(f"{_TILES}/TCGA-AD-6964-01Z-00-DX1_Tile_22016_11776.jpg", 1.0, (0, 100, 430, 512)),
        Source(f"{_HISTOLAB}/high-nuclei-score-level0.png", 0.5),
        Source(f"{_TILES}/torchstain_source.png", 1.2, (280, 190, 520, 330)),
        *_dsb("2dd3356f2dcf470a", "4d14a3629b6af6de"),
        *_dsb("45f059cf21d85ecf", "52a6b8ae4c8e0a8a", "6ab24e7e1f6c9fdd", scale=0.3),
    ),
    (
        Source(f"{_HISTOLAB}/medium-nuclei-score-level0.png", 0.5, (0, 420, 1001, 777)),
        Source(f"{_TILES}/torchstain_target.png", 1.2, (20, 20, 180, 120)),
        Source(f"{_HISTOLAB}/medium-nuclei-score-level1.png", 1.0, (0, 290, 420, 430)),
        *_dsb("3b0709483b1e8644", "4ae4f936a9ade472"),
    ),
    (
        Source("slides/instanseg_HE_example.tif", 1.0, (400, 100, 860, 360)),
        *_dsb("0c2550a23b8a0f29", "4590d7d47f521df6", "610f32e2d9d270d7", "718751b439c05bdd", "79fe419488ba9849"),
    ),
    (Source(f"{_HISTOLAB}/low-nuclei-score-level0.png", 0.5),),
)
"""Of each class, and last of what is excluded (fat)."""
TEST_SOURCES: tuple[tuple[Source, ...], ...] = (
    (
        Source(f"{_TILES}/henorm_example1.png", 0.4, (210, 250, 500, 520)),
        Source("nuclei/stardist_histo.jpg", 0.5),
        *_dsb("a31deaf0ac279d5f"),
        *_dsb("7798ca1ddb313356", "853a4c67900c411a", "c0152b1a260e71f9", scale=0.3),
    ),
    (
        Source(f"{_TILES}/henorm_example1.png", 0.4, (660, 350, 980, 600)),
        Source(f"{_TILES}/torchstain_source.png", 1.2, (450, 75, 580, 140)),
        *_dsb("815524d88283ba10", "0e21d7b3eea8cdbb"),
    ),
    (
        Source("slides/instanseg_HE_example.tif", 1.0, (1030, 590, 1300, 860)),
        *_dsb("b214800de5ed4cc5", "e414b54f2036bcab", "7f55678298adb736", "0e4c2e2780de7ec4"),
    ),
    (Source(f"{_HISTOLAB}/low-nuclei-score-level0.png", 0.5),),
)
"""Other images, but for fat, and for the lymph node, of which it is another part."""


EXCLUDED = 0.25
"""Largest share of excluded pixels of a patch."""
PARTS: dict[Split, tuple[tuple[float, float], tuple[float, float]]] = {
    "train": ((0.0, 0.5), (0.0, 0.48)),
    "validation": ((0.5, 0.75), (0.48, 0.6)),
    "test": ((0.75, 1.0), (0.6, 1.0)),
}
"""From left to right which share of grid and region is whose: no outline is in two splits, each has all classes."""


def painted(
    data: Path, seed: int, n: int | None = None, *, split: Split = "train", side: int = 128, step: int = 1
) -> list[PlantedPatch]:
    """Patches of the masks, each painted anew with tissue of its split; testing has images of its own.

    Args:
        data: folder of the real data (``WSIKIT_DATA``).
        seed: of everything.
        n: patches at random places, turned and mirrored at random; None is each place once, without overlap.
        split: whose part of the masks, and whose tissue. Validation has the tissue of training.
        side: of the square patches, px; nuclei are as at 0.5 um per px.
        step: pixels of the masks, of 0.25 um, per pixel of the patches. 2 is true to size; then hardly one patch in six
            has a single class, with 1 it is four in ten.
    """
    rng = np.random.default_rng(seed)
    masks = outlines(data, split, step)
    windows = _all_windows(masks, side) if n is None else _some_windows(rng, masks, side)
    sources = TEST_SOURCES if split == "test" else TRAIN_SOURCES
    found = []
    for truth in windows if n is None else (_turned(rng, next(windows)) for _ in range(n)):
        light = 255 * (np.clip(paint(rng, data, truth, sources), 1, 255) / 255.0) ** rng.uniform(0.85, 1.15, 3)
        present = label_of(truth, len(REAL.classes))
        found.append(PlantedPatch(np.rint(light).astype(np.uint8), truth.copy(), present, f"{split}-0", split))
    return found


def _worth(truth: Mask) -> bool:
    classes = len(REAL.classes)
    return bool((truth >= classes).mean() <= EXCLUDED) and any(label_of(truth, classes))


def _all_windows(masks: Sequence[Mask], side: int) -> Iterator[Mask]:
    for mask in masks:
        for y in range(0, mask.shape[0] - side + 1, side):
            for x in range(0, mask.shape[1] - side + 1, side):
                if _worth(mask[y : y + side, x : x + side]):
                    yield mask[y : y + side, x : x + side]


def _some_windows(rng: np.random.Generator, masks: Sequence[Mask], side: int) -> Iterator[Mask]:
    areas = np.array([mask.size for mask in masks])
    while True:
        mask = masks[int(rng.choice(len(masks), p=areas / areas.sum()))]
        y, x = (int(rng.integers(length - side + 1)) for length in mask.shape)
        if _worth(mask[y : y + side, x : x + side]):
            yield mask[y : y + side, x : x + side]


def outlines(data: Path, split: Split | None = None, step: int = 1) -> list[Mask]:
    """Grid and region, every ``step``-th pixel of them; of a split, or all."""
    shares = PARTS[split] if split else ((0.0, 1.0), (0.0, 1.0))
    masks = [mask[::step, ::step] for mask in (_grid(data), _region(data))]
    return [
        mask[:, round(low * mask.shape[1]) : round(high * mask.shape[1])]
        for mask, (low, high) in zip(masks, shares, strict=True)
    ]


@cache
def _grid(data: Path) -> Mask:
    """(2560, 2048) the 14 fields that are there of 5 rows of 4; a field is 511 px, one less than their distance."""
    canvas = np.full((5 * 512, 4 * 512), REAL.excluded, np.uint8)
    for path in sorted((data / "tissue/bcss_masks/roi_grid").glob("*.png")):
        left, top = map(int, re.findall(r"(?:left|top)-(\d+)", path.name))
        with Image.open(path) as image:
            field = np.pad(_classes(np.asarray(image)), (0, 1), mode="edge")
        canvas[top - 43750 :, left - 44350 :][:512, :512] = field
    return canvas


@cache
def _region(data: Path) -> Mask:
    """(4594, 4542) the large region, a square that stands on a corner."""
    (path,) = (data / "tissue/bcss_masks").glob("*.png")
    with Image.open(path) as image:
        return _classes(np.asarray(image))


def _classes(codes: NDArray[np.uint8]) -> Mask:
    table = np.full(256, REAL.excluded, np.uint8)
    table[list(CODES)] = list(CODES.values())
    return np.asarray(table[codes])


def paint(rng: np.random.Generator, data: Path, truth: Mask, sources: Sequence[Sequence[Source]]) -> Pixels:
    """(H, W, 3) tissue within outlines.

    Args:
        rng: which piece is of which image, from where in it, turned how, stained how much.
        data: folder of the real data.
        truth: (H, W) indices of the classes, and of what is excluded behind them.
        sources: of each.
    """
    # a piece of one class has a number of its own, from 1
    pieces = _pieces(rng, truth.shape) * len(sources) + truth + 1
    light = np.zeros((*truth.shape, 3))
    for number, box in enumerate(ndimage.find_objects(pieces), 1):
        if box is not None:
            inside = pieces[box] == number
            own = sources[(number - 1) % len(sources)]
            light[box][inside] = _laid(rng, [_tissue(data, source) for source in own], inside.shape)[inside]
    return _softened(light, pieces)


@cache
def _tissue(data: Path, source: Source) -> Pixels:
    with Image.open(data / source.file) as image:
        tissue = image.convert("RGB").crop(source.box or (0, 0, *image.size))
    size = tuple(max(1, round(length * source.scale)) for length in tissue.size)
    return np.asarray(tissue.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=3.0))


def _pieces(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """(H, W) numbers from 0 of irregular pieces: the nearest of jittered points, as seen through a wavy glass."""
    corners = np.mgrid[-1 : shape[0] // PIECE + 2, -1 : shape[1] // PIECE + 2].reshape(2, -1).T * PIECE
    points = corners + rng.uniform(0, PIECE, corners.shape)
    bent = np.indices(shape) + 14 * np.stack([_clouds(rng, shape, 14) for _ in shape])
    return np.asarray(cKDTree(points).query(bent.reshape(2, -1).T)[1]).reshape(shape)


def _laid(rng: np.random.Generator, textures: Sequence[Pixels], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """(H, W, 3) light of one of the images, the larger the likelier, from any place, mirrored where it ends."""
    areas = np.array([texture.shape[0] * texture.shape[1] for texture in textures])
    texture = _turned(rng, textures[int(rng.choice(len(textures), p=areas / areas.sum()))])
    rows, columns = (
        _mirrored(int(rng.integers(2 * length)), count, length)
        for count, length in zip(shape, texture.shape, strict=False)
    )
    return np.asarray(255 * (np.clip(texture[np.ix_(rows, columns)], 1, 255) / 255) ** rng.uniform(0.85, 1.15, 3))


def _mirrored(start: int, count: int, length: int) -> NDArray[np.int64]:
    """Indices 0 .. length - 1, back again, and so on."""
    at = (start + np.arange(count)) % (2 * length)
    return np.minimum(at, 2 * length - 1 - at)


def _turned(rng: np.random.Generator, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    turned = np.rot90(image, int(rng.integers(4)))
    return turned[::-1] if rng.integers(2) else turned


def _softened(light: NDArray[np.float64], pieces: NDArray[np.int64]) -> Pixels:
    """Cuts blurred, those between classes as those within one."""
    cut = ndimage.maximum_filter(pieces, 3) != ndimage.minimum_filter(pieces, 3)
    blurred = np.stack([ndimage.gaussian_filter(light[..., channel], 1) for channel in range(3)], axis=-1)
    return np.clip(np.rint(np.where(cut[..., None], blurred, light)), 0, 255).astype(np.uint8)


# Files


FOLDERS = {"train": "train", "validation": "val", "test": "test"}
LABELS: dict[Dialect, tuple[str, str]] = {
    "spaces": ("-", " "),
    "joined": ("", ""),
    "underscores": ("_", "_"),
    "any": ("-", " "),
}


def label_text(present: Sequence[bool], dialect: Dialect) -> str:
    """A label as file names end on it."""
    before, between = LABELS[dialect]
    return f"{before}[{between.join(str(int(one)) for one in present)}]"


def patch_name(index: int, patch: PlantedPatch, schema: ClassSchema) -> str:
    """Stem of the file of a patch."""
    return f"{patch.slide}-{index:05d}{label_text(patch.present, schema.dialect)}"


def write_folder(folder: Path, patches: Sequence[PlantedPatch], schema: ClassSchema) -> Path:
    """As data sets come: ``train/``, and ``val/`` and ``test/`` with ``img/`` and ``mask/``, labels in the names."""
    for index, patch in enumerate(patches):
        part, name = folder / FOLDERS[patch.split], patch_name(index, patch, schema)
        images = part if patch.split == "train" else part / "img"
        images.mkdir(parents=True, exist_ok=True)
        Image.fromarray(patch.image).save(images / f"{name}.png", compress_level=1)
        if patch.split != "train":
            (part / "mask").mkdir(exist_ok=True)
            write_mask(part / "mask" / f"{name}.png", patch.truth, schema)
    return folder


def write_table(path: Path, rows: Sequence[Sequence[object]], delimiter: str = ",") -> Path:
    """A CSV of these rows, the header among them."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path

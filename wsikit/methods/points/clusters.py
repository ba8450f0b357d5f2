"""Cluster label: what the colours around points say of masks (Qu et al. 2019, 2020).

1. Three clusters of pixels by colour and by distance to the nearest point: k-means on a sample, then every pixel to
   the nearest centre.
2. The cluster that has most of the points is nucleus, the one that has least of their surroundings background; the
   third says nothing.
3. Cell by cell of the Voronoi diagram, what is nucleus is cleaned: small parts go, gaps and holes close, and the rim,
   of which the colour is least sure, goes. Parts that do not come near the cell's point go as well (the authors keep
   them): they are an unmarked nucleus or none, and a label must not invent any. They are ignored.
4. Background is the background cluster without those nuclei and without the surroundings of points.

The authors' lengths hold at a nuclear radius of 11 px (40x); here they are multiples of the radius.
"""

from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from wsikit.errors import ConfigError
from wsikit.methods.points.distance import checked_points, nearest_point, point_distance
from wsikit.methods.points.voronoi import BACKGROUND, IGNORED, NUCLEUS
from wsikit.predictors.stain import Deconvolution
from wsikit.stain.density import EOSIN, HAEMATOXYLIN

Features = Literal["rgb", "haematoxylin"]
FAR = 20 / 11
"""Distances to the nearest point are cut off here, in radii."""
FAR_VALUE = 20.0
"""The feature's value there. Colours are 0 to 25.5: a tenth of RGB."""
HAEMATOXYLIN_SCALE = 25.5
"""The feature's value at a density (decadic OD) of 1: a dark nucleus is as far from glass as in RGB."""
MOST_HAEMATOXYLIN = 2.0
"""Densities are cut off here: what is darker is ink or a fold, and would be a cluster of its own."""
LEAST_CONTRAST = 2.0
"""Least difference in colour, of the features' values, between the centres of nucleus and background: 20 grey levels
or 0.08 OD. With less, distance alone has made the clusters, and every point would get a disc for a nucleus."""
MARK = 2 / 11
"""Radius of the disc that stands for a point, and what cells of the Voronoi diagram share with their neighbours."""
SURROUNDINGS = 5 / 11
"""Radius of a point's surroundings in step 2, and how far step 3 closes gaps."""
SHRINK = 7 / 11
"""How far the closed nucleus is then eroded: by more than it grew, so that the rim goes."""
MARGIN = 10 / 11
"""No background nearer to a point."""
LEAST_PART = 30 / 11**2
"""Smallest part of a nucleus, in squared radii."""
REACH = 2.0
"""A nucleus ends here, in radii: as far as the extended Gaussian knows."""
SAMPLE = 20_000
"""Pixels that centres are found from."""
STARTS = 5
"""Runs of k-means, of which the tightest counts: one alone may end in a poor optimum."""
ROUNDS = 30
BLOCK = 1 << 18
"""Pixels assigned at once."""


def cluster_label(
    image: NDArray[np.uint8],
    points: NDArray[np.floating],
    *,
    radius_px: float,
    features: Features = "rgb",
    seed: int = 0,
) -> NDArray[np.uint8]:
    """(H, W) 1 nucleus, 0 background, 255 ignored.

    All is ignored where no point is in the image, and where nuclei and background would not differ in colour.

    Args:
        image: (H, W, 3) RGB.
        points: (N, 2) x and y in px, pixel-corner convention; every nucleus of the image should have one. Those outside
            the image count for distances.
        radius_px: nuclear radius.
        features: rgb, or haematoxylin: the density of that stain alone (Ruifrok and Johnston), which takes no eosin for
            nuclei and knows no colour of a scanner.
        seed: of the sample and of k-means.

    Raises:
        ConfigError: a radius that is not positive, another kind of features, or wrong shapes.
    """
    points = checked_points(points)
    _check(image, radius_px, features)
    shape = image.shape[:2]
    label = np.full(shape, IGNORED, np.uint8)
    distance = point_distance(points, shape, max(FAR, REACH) * radius_px)
    marked = distance <= MARK * radius_px
    if not marked.any():
        return label
    found = pixel_clusters(image, distance / radius_px, features=features, seed=seed)
    if found is None:
        return label
    clusters, centres = found
    nucleus, background = _roles(clusters, marked, distance <= SURROUNDINGS * radius_px)
    if np.linalg.norm(centres[nucleus, :-1] - centres[background, :-1]) < LEAST_CONTRAST:
        return label
    nuclei = refined_nuclei(clusters == nucleus, points, distance, radius_px)
    label[(clusters == background) & (distance > MARGIN * radius_px)] = BACKGROUND
    label[nuclei] = NUCLEUS
    return label


def pixel_clusters(
    image: NDArray[np.uint8], distance: NDArray[np.floating], *, features: Features, seed: int
) -> tuple[NDArray[np.int32], NDArray[np.float64]] | None:
    """(H, W) cluster 0, 1 or 2 of each pixel, and the (3, D) centres, of which the distance to points is the last.

    None where the sample has fewer than three different pixels.

    Args:
        image: (H, W, 3) RGB.
        distance: (H, W) to the nearest point, in radii.
        features: see ``cluster_label``.
        seed: the same gives the same clusters.
    """
    from scipy.cluster.vq import vq

    rng = np.random.default_rng(seed)
    pixels = distance.size
    chosen = np.sort(rng.choice(pixels, min(SAMPLE, pixels), replace=False))
    colours, far = image.reshape(-1, 3), distance.ravel()
    centres = _centres(_features(colours[chosen], far[chosen], features), rng)
    if centres is None:
        return None
    blocks = [slice(start, start + BLOCK) for start in range(0, pixels, BLOCK)]
    found = [vq(_features(colours[block], far[block], features), centres)[0] for block in blocks]
    return np.concatenate(found).reshape(distance.shape), centres


def _features(colours: NDArray[np.uint8], distance: NDArray[np.floating], features: Features) -> NDArray[np.float64]:
    """(P, 4 or 2) features of (P, 3) colours and (P,) distances in radii."""
    far = np.minimum(distance / FAR, 1)[:, None] * FAR_VALUE
    if features == "rgb":
        return np.concatenate([colours / 10, far], axis=1)
    density = Deconvolution.of(HAEMATOXYLIN, EOSIN).density(colours[None], 0)[0]
    stain = np.clip(density, 0, MOST_HAEMATOXYLIN)[:, None] * HAEMATOXYLIN_SCALE
    return np.concatenate([stain, far], axis=1)


def _centres(sample: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64] | None:
    """(3, D) centres of the tightest of several runs."""
    from scipy.cluster.vq import kmeans2, vq

    if len(np.unique(sample, axis=0)) < 3:
        return None
    runs: list[tuple[float, int, NDArray[np.float64]]] = []
    for _ in range(STARTS):
        with warnings.catch_warnings():
            # a cluster that no pixel is left in keeps its centre
            warnings.filterwarnings("ignore", message="One of the clusters is empty")
            centres, _ = kmeans2(sample, 3, iter=ROUNDS, minit="++", missing="warn", rng=rng)
        runs.append((float((vq(sample, centres)[1] ** 2).sum()), len(runs), centres))
    return min(runs)[2]


def _roles(clusters: NDArray[np.int32], marked: NDArray[np.bool_], surroundings: NDArray[np.bool_]) -> tuple[int, int]:
    """Which cluster is nucleus and which background; of several that points stay clear of, the largest."""
    points, around, sizes = (
        np.bincount(clusters[mask], minlength=3) for mask in (marked, surroundings, np.ones_like(marked))
    )
    nucleus = int(np.argmax(points))
    background = min((k for k in range(3) if k != nucleus), key=lambda k: (around[k], -sizes[k]))
    return nucleus, background


def refined_nuclei(
    mask: NDArray[np.bool_], points: NDArray[np.floating], distance: NDArray[np.floating], radius_px: float
) -> NDArray[np.bool_]:
    """(H, W) what is left of a mask of nuclei after step 3 of the module.

    Args:
        mask: (H, W) nucleus cluster.
        points: (N, 2) px.
        distance: (H, W) to the nearest point, px; may be infinite beyond ``REACH`` radii.
        radius_px: nuclear radius.
    """
    owner = nearest_point(points, mask.shape, reach=REACH * radius_px)
    # EDT and closing must see this far around what may be nucleus
    around = (REACH + MARK + SURROUNDINGS + SHRINK) * radius_px + 2
    nuclei = np.zeros(mask.shape, bool)
    for index in np.unique(owner[owner >= 0]):
        x, y = points[index]
        box = tuple(slice(max(0, int(place - around)), max(0, int(place + around) + 1)) for place in (y, x))
        mine = owner[box] == index
        near = (distance[box] <= SURROUNDINGS * radius_px) & mine
        nuclei[box] |= _cell_nucleus(mask[box], mine, near, radius_px) & mine
    return nuclei


def _cell_nucleus(
    mask: NDArray[np.bool_], mine: NDArray[np.bool_], near: NDArray[np.bool_], radius_px: float
) -> NDArray[np.bool_]:
    """The nucleus of one cell. What is outside the image neither grows nor erodes anything."""
    # holes first: a pale nucleus with a dark rim is a ring around its point
    parts, count = ndimage.label(ndimage.binary_fill_holes(mask & _grown(mine, MARK * radius_px)))
    kept = np.bincount(parts.ravel(), minlength=count + 1) >= LEAST_PART * radius_px**2
    touches = np.zeros(count + 1, bool)
    touches[np.unique(parts[near])] = True
    kept &= touches
    kept[0] = False
    if not kept.any():
        return np.zeros(mask.shape, bool)
    whole = ndimage.binary_fill_holes(_grown(kept[parts], SURROUNDINGS * radius_px))
    return ~_grown(~whole, SHRINK * radius_px)


def _grown(mask: NDArray[np.bool_], px: float) -> NDArray[np.bool_]:
    """Dilation by a disc whose radius need not be whole."""
    if not mask.any():
        return mask
    grown: NDArray[np.bool_] = ndimage.distance_transform_edt(~mask) <= px
    return grown


def _check(image: NDArray[np.uint8], radius_px: float, features: str) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ConfigError(f"clusters need (H, W, 3) uint8 RGB, got {image.shape} {image.dtype}")
    if not radius_px > 0:
        raise ConfigError(f"the nuclear radius must be positive, got {radius_px!r} px")
    if features not in ("rgb", "haematoxylin"):
        raise ConfigError(f"features of clusters are rgb or haematoxylin, got {features!r}")

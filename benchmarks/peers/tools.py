"""Peers with pipelines of their own, tiatoolbox and lazyslide: their tile iterators, and patches written to files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from worker import Case

MIN_TISSUE = 0.5
"""Least share of a patch that is tissue, in every job."""
QUALITY = 80
"""Of the JPEG patches, in every job."""
LOADED = 32
"""Patches in a batch of a torch DataLoader."""


def tiatoolbox(case: Case) -> None:
    """``SlidingWindowPatchExtractor``, iterated over."""
    extractor = _extractor(case)
    sink = case.sink()
    for (x, y, *_), patch in zip(extractor.coordinate_list, extractor, strict=True):
        sink.add((int(x), int(y)), patch)


def tiatoolbox_loader(case: Case) -> None:
    """The same behind a torch DataLoader with a process per thread of the others."""
    from torch.utils.data import DataLoader

    extractor = _extractor(case)
    places = [(int(x), int(y)) for x, y, *_ in extractor.coordinate_list]
    sink = case.sink()
    # the extractor's own __getitem__ and __len__ make it a map-style dataset
    loader = DataLoader(extractor, batch_size=LOADED, num_workers=case.threads)
    for first, batch in zip(range(0, len(places), LOADED), loader, strict=True):
        sink.add_batch(places[first : first + LOADED], batch.numpy())


def _extractor(case: Case, **options: Any) -> Any:
    from tiatoolbox.tools.patchextraction import get_patch_extractor
    from tiatoolbox.wsicore.wsireader import WSIReader

    return get_patch_extractor(
        "slidingwindow",
        input_img=WSIReader.open(case.path),
        patch_size=(case.size, case.size),
        stride=(case.stride, case.stride),
        resolution=case.wanted_mpp or case.mpp,
        units="mpp",
        within_bound=True,
        **options,
    )


def tiatoolbox_store(case: Case) -> dict[str, Any]:
    """Tissue by Otsu, the extractor on it, ``imwrite`` of every patch on all threads."""
    from tiatoolbox.utils.misc import imwrite
    from tiatoolbox.wsicore.wsireader import WSIReader

    mask = WSIReader.open(case.path).tissue_mask("otsu", resolution=16 * case.mpp, units="mpp")
    extractor = _extractor(case, input_mask=mask, min_mask_ratio=MIN_TISSUE)

    def write(index: int) -> None:
        x, y = (int(v) for v in extractor.coordinate_list[index][:2])
        imwrite(Path(case.out or "") / f"{x}_{y}.jpg", extractor[index])

    with ThreadPoolExecutor(case.threads) as pool:
        return {"patches": len(list(pool.map(write, range(len(extractor)))))}


def lazyslide(case: Case) -> None:
    """``iter.tile_images`` with the reader that lazyslide takes by itself."""
    _iterate(case, None)


def lazyslide_fastslide(case: Case) -> None:
    """The same with fastslide as its reader."""
    _iterate(case, "fastslide")


def _iterate(case: Case, reader: str | None) -> None:
    import lazyslide as zs
    from shapely import box
    from wsidata.io import add_tissues

    slide = zs.open_wsi(case.path, store=None, reader=reader)
    add_tissues(slide, "tissues", [box(0, 0, case.width, case.height)])
    sink = case.sink()
    scale = case.mpp / (case.wanted_mpp or case.mpp)
    for tile in _tiles(slide, case):
        sink.add((round(tile.x * scale), round(tile.y * scale)), np.asarray(tile.image))


def _tiles(slide: Any, case: Case) -> Iterator[Any]:
    import lazyslide as zs

    zs.pp.tile_tissues(
        slide,
        case.size,
        mpp=case.wanted_mpp or case.mpp,
        stride_px=case.stride,
        background_fraction=1 - MIN_TISSUE,
    )
    yield from slide.iter.tile_images("tiles")


def lazyslide_store(case: Case) -> dict[str, Any]:
    """Tissue found, tiled, iterated; Pillow writes every patch on the other threads."""
    return _store(case, None)


def lazyslide_fastslide_store(case: Case) -> dict[str, Any]:
    """The same with fastslide as its reader."""
    return _store(case, "fastslide")


def _store(case: Case, reader: str | None) -> dict[str, Any]:
    import lazyslide as zs
    from PIL import Image

    slide = zs.open_wsi(case.path, store=None, reader=reader)
    zs.pp.find_tissues(slide)

    def write(tile: Any) -> None:
        target = Path(case.out or "") / f"{tile.x}_{tile.y}.jpg"
        Image.fromarray(np.asarray(tile.image)).save(target, quality=QUALITY)

    with ThreadPoolExecutor(case.threads) as pool:
        return {"patches": len(list(pool.map(write, _tiles(slide, case))))}


def _prepare_tiatoolbox() -> None:
    import tiatoolbox.tools.patchextraction
    import tiatoolbox.wsicore.wsireader  # noqa: F401


def _prepare_lazyslide() -> None:
    warnings.simplefilter("ignore")
    import lazyslide  # noqa: F401


_TIATOOLBOX = ["tiatoolbox", "tiatoolbox_loader", "tiatoolbox_store"]
_LAZYSLIDE = ["lazyslide", "lazyslide_fastslide", "lazyslide_store", "lazyslide_fastslide_store"]
PREPARE = dict.fromkeys(_TIATOOLBOX, _prepare_tiatoolbox) | dict.fromkeys(_LAZYSLIDE, _prepare_lazyslide)
PACKAGES = {name: ["tiatoolbox", "openslide-python", "openslide-bin"] for name in _TIATOOLBOX} | {
    name: ["lazyslide", "wsidata", "openslide-python", "fastslide"] for name in _LAZYSLIDE
}

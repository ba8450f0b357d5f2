"""Masks as OME-Zarr: the slide's overview as the root image; label images, scores, confidence and density beside
it; all pyramids.

::

    masks.ome.zarr/          overview, (c, y, x) uint8 RGB: opens as an image everywhere
      labels/<layer>/        (y, x) uint8 or uint32, 0 is nothing
      scores/                (c, y, x) uint8, one channel per class, in steps of 1/255
      confidence/            (c, y, x) uint8, the best score less the second best, in steps of 1/255; also 0 where
                             nothing was analysed, which labels/classes tells apart
      density/               (c, y, x) float32, objects per mm^2, one pixel per cell of the model; its sum times the
                             area of a pixel is the number of objects, exactly so at level 0

**Frame.** Coordinates are micrometres from the *centre* of level-0 pixel (0, 0) of the slide's full plane: OME-NGFF
places pixels by their centres. A pyramid whose pixels of side m average the slide has its pixel 0 centred (m - s) / 2
from there, s being the slide's own mpp; that is its translation. Labels keep every second pixel, so all their levels
share the translation of level 0. The bounds offset that GeoJSON subtracts is not subtracted here.

**Versions.** 0.4 (Zarr 2) is what QuPath and Bio-Formats read; zlib is the one compressor that every reader of it has
built in. 0.5 (Zarr 3) stores a whole block in one file (a shard), for file systems that limit the number of files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from wsikit.atomic import output_errors, remove, remove_unfinished, replace_folder, temporary
from wsikit.errors import ConfigError, OutputError, PredictionError
from wsikit.features import DensityBlock, Layer, MaskBlock
from wsikit.geometry import Region
from wsikit.sinks import SinkContext

if TYPE_CHECKING:
    import zarr

SMALLEST = 1024
"""Pyramids go down to a longer side of at most this, px: one screen. All of a slide have as many levels as the deepest
needs: the specification wants labels to have as many as their image."""

Image = NDArray[Any]
"""Unsigned integers, or float32 for density."""
Method = Literal["nearest", "mean"]


@dataclass(slots=True)
class _Pyramid:
    """One multiscales group being written."""

    group: zarr.Group
    arrays: list[zarr.Array[Any]]
    method: Method
    filled: set[tuple[int, int]] = field(default_factory=set)
    """(column, row) of the level-0 blocks that hold something."""


class OmeZarrSink:
    """Writes mask blocks to an OME-Zarr folder.

    Blocks that are empty, or never come, are not stored. Pyramids are built at commit, block by block, with at most a
    few blocks in memory.

    Args:
        path: the final folder, ``*.ome.zarr`` by custom. One that exists is replaced at commit.
        ngff: the version of the format.
        block: side in lattice pixels of the blocks that ``write`` takes; the shard of 0.5.
        chunk: side in pixels of what is compressed together; divides ``block``.

    Raises:
        ConfigError: an unknown version, or a chunk that does not divide the block.
        OutputError: from begin, write and commit, where the disk refuses.
        PredictionError: from write, where a block breaks its contract.
    """

    takes: ClassVar[Literal["masks"]] = "masks"
    filename: ClassVar[str] = "masks.ome.zarr"

    def __init__(
        self, path: str | Path, *, ngff: Literal["0.4", "0.5"] = "0.4", block: int = 2048, chunk: int = 512
    ) -> None:
        if ngff not in ("0.4", "0.5"):
            raise ConfigError(f"OME-Zarr is written as version 0.4 or 0.5, got {ngff!r}")
        if chunk < 1 or block < 1 or block % chunk:
            raise ConfigError(f"the chunk must divide the block, both at least 1 px; got chunk={chunk}, block={block}")
        self.path = Path(path)
        self.ngff: Literal["0.4", "0.5"] = ngff
        self.block = block
        self.chunk = chunk
        self._context: SinkContext | None = None
        self._pyramids: dict[str, _Pyramid] = {}
        self._seen: set[tuple[str, int, int]] = set()
        self._levels = 1
        self._densest = 0.0

    def begin(self, context: SinkContext) -> None:
        """Create the temporary folder, its metadata and the overview."""
        import zarr

        self.abort()
        folder = temporary(self.path)
        with output_errors(self.path):
            remove(folder)
            folder.mkdir()
            self._context = context
            self._levels = max(_level_count(context.overview.shape[:2]), _level_count(context.size))
            root = zarr.create_group(folder, zarr_format=2 if self.ngff == "0.4" else 3)
            self._add_overview(root, context)
            for layer in context.layers:
                self._add_layer(root, layer, context)
            if context.layers:
                self._annotate(root.require_group("labels"), {"labels": [layer.name for layer in context.layers]})
            if context.has_scores:
                self._add_scores(root, context)
            if context.has_confidence:
                self._add_confidence(root, context)
            if context.density is not None:
                self._add_density(root, context.density, context)

    def write(self, block: MaskBlock) -> None:
        """Write one block: every layer of the context, and ``scores`` and ``confidence`` where they are announced."""
        self._check(block, self._begun())
        self._take("masks", block.region)
        for name, image in block.layers.items():
            self._put(f"labels/{name}", block.region, image)
        if block.scores is not None:
            self._put("scores", block.region, block.scores)
        if block.confidence is not None:
            self._put("confidence", block.region, block.confidence[None])

    def write_density(self, block: DensityBlock) -> None:
        """Write one block of the density map that the context has announced."""
        plane, region, density = self._begun().density, block.region, block.density
        if plane is None:
            raise PredictionError("a block of density came, and none was announced")
        self._check_place("density", region, plane)
        if density.shape != (region.height, region.width) or density.dtype != np.float32:
            raise PredictionError(
                f"a block of density must be {(region.height, region.width)} float32, got {density.shape} "
                f"{density.dtype}"
            )
        self._take("density", region)
        self._densest = max(self._densest, float(density.max()))
        self._put("density", region, density[None])

    def _take(self, what: str, region: Region) -> None:
        self._seen.add((what, region.x // self.block, region.y // self.block))

    def _put(self, name: str, region: Region, image: Image) -> None:
        """Write a block to level 0, unless it is empty."""
        if not image.any():
            return
        pyramid = self._pyramids[name]
        with output_errors(self.path):
            pyramid.arrays[0][..., region.y : region.y1, region.x : region.x1] = image
        pyramid.filled.add((region.x // self.block, region.y // self.block))

    def commit(self) -> None:
        """Build the pyramids, flush to disk and rename to the final path."""
        self._begun()
        folder = temporary(self.path)
        with output_errors(self.path):
            for pyramid in self._pyramids.values():
                self._build(pyramid)
            if "density" in self._pyramids:
                # what is dense is known only now
                self._annotate(self._pyramids["density"].group, {"omero": _density_display(self._densest)})
            replace_folder(folder, self.path)
        self._forget()

    def abort(self) -> None:
        """Remove everything written."""
        if self._context is not None:
            remove_unfinished(temporary(self.path))
        self._forget()

    def _forget(self) -> None:
        self._context, self._pyramids, self._seen, self._densest = None, {}, set(), 0.0

    def _begun(self) -> SinkContext:
        if self._context is None:
            raise OutputError(f"{self.path}: call begin before write or commit", code="internal")
        return self._context

    def _check(self, block: MaskBlock, context: SinkContext) -> None:
        region = block.region
        self._check_place("masks", region, Region(0, 0, *context.size, context.mpp))
        want: dict[str, tuple[tuple[int, ...], str]] = {
            layer.name: ((region.height, region.width), layer.dtype) for layer in context.layers
        }
        got = {name: (image.shape, str(image.dtype)) for name, image in block.layers.items()}
        if context.has_scores:
            want["scores"] = (len(context.labels), region.height, region.width), "uint8"
        if block.scores is not None:
            got["scores"] = block.scores.shape, str(block.scores.dtype)
        if context.has_confidence:
            want["confidence"] = (region.height, region.width), "uint8"
        if block.confidence is not None:
            got["confidence"] = block.confidence.shape, str(block.confidence.dtype)
        if want != got:
            raise PredictionError(f"a block must hold {want}, got {got}")

    def _check_place(self, what: str, region: Region, plane: Region) -> None:
        side, width, height = self.block, plane.width, plane.height
        inside = 0 <= region.x < width and 0 <= region.y < height and region.mpp == plane.mpp
        whole = (region.width, region.height) == (min(side, width - region.x), min(side, height - region.y))
        if not inside or region.x % side or region.y % side or not whole:
            raise PredictionError(
                f"blocks are {side} px squares from (0, 0), clipped to {width}x{height}; got {region}"
            )
        if (what, region.x // side, region.y // side) in self._seen:
            raise PredictionError(f"a block must come once, got {region} again")

    def _add_overview(self, root: zarr.Group, context: SinkContext) -> None:
        image = np.ascontiguousarray(np.moveaxis(context.overview, 2, 0))
        pyramid = self._add_pyramid(root, image.shape, "uint8", "mean", context.overview_mpp, context)
        channels = [_channel(name, color) for name, color in zip("RGB", np.eye(3, dtype=int) * 255, strict=True)]
        self._annotate(root, {"omero": {"channels": channels, "rdefs": {"model": "color"}}})
        for column, row, y, x in _windows(image.shape, self.block):
            pyramid.arrays[0][:, y, x] = image[:, y, x]
            pyramid.filled.add((column, row))
        self._pyramids["overview"] = pyramid

    def _add_layer(self, root: zarr.Group, layer: Layer, context: SinkContext) -> None:
        group = root.require_group(f"labels/{layer.name}")
        shape = context.size[::-1]
        self._pyramids[f"labels/{layer.name}"] = self._add_pyramid(
            group, shape, layer.dtype, "nearest", context.mpp, context
        )
        self._annotate(group, {"image-label": {"version": self.ngff, **_image_label(layer)}})

    def _add_scores(self, root: zarr.Group, context: SinkContext) -> None:
        group = root.require_group("scores")
        shape = len(context.labels), *context.size[::-1]
        self._pyramids["scores"] = self._add_pyramid(group, shape, "uint8", "mean", context.mpp, context)
        channels = [_channel(label.name, label.color) for label in context.labels]
        self._annotate(group, {"omero": {"channels": channels, "rdefs": {"model": "color"}}})

    def _add_confidence(self, root: zarr.Group, context: SinkContext) -> None:
        group = root.require_group("confidence")
        shape = 1, *context.size[::-1]
        self._pyramids["confidence"] = self._add_pyramid(group, shape, "uint8", "mean", context.mpp, context)
        channels = [_channel("Best score less second best", (255,) * 3)]
        self._annotate(group, {"omero": {"channels": channels, "rdefs": {"model": "greyscale"}}})

    def _add_density(self, root: zarr.Group, plane: Region, context: SinkContext) -> None:
        # an image of its own, and no label of the overview: it needs no more levels than its size asks for
        shape, levels = (1, plane.height, plane.width), _level_count((plane.height, plane.width))
        group = root.require_group("density")
        self._pyramids["density"] = self._add_pyramid(group, shape, "float32", "mean", plane.mpp, context, levels)

    def _add_pyramid(
        self,
        group: zarr.Group,
        shape: tuple[int, ...],
        dtype: str,
        method: Method,
        mpp: float,
        context: SinkContext,
        levels: int | None = None,
    ) -> _Pyramid:
        shapes = _level_shapes(shape, levels or self._levels)
        arrays = [self._create(group, str(k), s, dtype) for k, s in enumerate(shapes)]
        scales = [mpp * 2**k for k in range(len(arrays))]
        places = [((mpp if method == "nearest" else m) - context.slide_mpp) / 2 for m in scales]
        extra = [1.0] * (len(shape) - 2), [0.0] * (len(shape) - 2)
        datasets = [
            {
                "path": str(k),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [*extra[0], scale, scale]},
                    {"type": "translation", "translation": [*extra[1], place, place]},
                ],
            }
            for k, (scale, place) in enumerate(zip(scales, places, strict=True))
        ]
        name = f"{context.slide_id}/{group.path}" if group.path else context.slide_id
        multiscales: dict[str, Any] = {"name": name, "type": method, "axes": _axes(len(shape)), "datasets": datasets}
        if self.ngff == "0.4":
            multiscales["version"] = "0.4"
        self._annotate(group, {"multiscales": [multiscales]})
        return _Pyramid(group, arrays, method)

    def _create(self, group: zarr.Group, name: str, shape: tuple[int, ...], dtype: str) -> zarr.Array[Any]:
        leading = shape[:-2]
        chunks = (*(1 for _ in leading), self.chunk, self.chunk)
        # explicit, so that neither zarr's defaults nor a user's zarr configuration change the files
        common: dict[str, Any] = {
            "name": name, "shape": shape, "dtype": dtype, "chunks": chunks, "fill_value": 0,
            "config": {"write_empty_chunks": False},
        }  # fmt: skip
        if self.ngff == "0.4":
            from numcodecs import Zlib

            separator: Any = {"name": "v2", "separator": "/"}
            return group.create_array(**common, compressors=Zlib(level=1), filters=None, chunk_key_encoding=separator)
        from zarr.codecs import ZstdCodec

        return group.create_array(
            **common,
            shards=(*leading, self.block, self.block),
            compressors=ZstdCodec(level=3),
            dimension_names=["c", "y", "x"][-len(shape) :],
        )

    def _annotate(self, group: zarr.Group, metadata: Mapping[str, Any]) -> None:
        """Add OME metadata: plain attributes in 0.4, members of ``ome`` in 0.5."""
        if self.ngff == "0.4":
            group.attrs.update(dict(metadata))
            return
        known: Any = group.attrs.get("ome", {"version": self.ngff})
        group.attrs["ome"] = {**known, **metadata}

    def _build(self, pyramid: _Pyramid) -> None:
        """Halve level by level. Only blocks over something are visited, so empty slide costs nothing."""
        filled = pyramid.filled
        for source, target in zip(pyramid.arrays, pyramid.arrays[1:], strict=False):
            filled = {(column // 2, row // 2) for column, row in filled}
            for column, row, y, x in _windows(target.shape, self.block):
                if (column, row) in filled:
                    target[..., y, x] = self._halved(source, target, y, x, pyramid.method)

    def _halved(self, source: zarr.Array[Any], target: zarr.Array[Any], y: slice, x: slice, method: Method) -> Image:
        """The window (y, x) of ``target``, from ``source`` in strips of one row of chunks and one channel."""
        channels = np.ndindex(target.shape[:-2])
        image = np.empty((*target.shape[:-2], y.stop - y.start, x.stop - x.start), target.dtype)
        columns = slice(2 * x.start, min(2 * x.stop, source.shape[-1]))
        for index in channels:
            for top in range(y.start, y.stop, self.chunk):
                stop = min(top + self.chunk, y.stop)
                rows = slice(2 * top, min(2 * stop, source.shape[-2]))
                part: Any = source[(*index, rows, columns)]
                image[(*index, slice(top - y.start, stop - y.start))] = halve(part, method)
        return image


def halve(image: Image, method: Method) -> Image:
    """(H, W) -> (ceil(H / 2), ceil(W / 2)): every second pixel, or the mean of the up to 2 x 2 pixels that exist.

    Means of integers are rounded, halves up.
    """
    if method == "nearest":
        return image[::2, ::2]
    whole = np.issubdtype(image.dtype, np.integer)
    total = _pairwise_sum(_pairwise_sum(image.astype(np.uint16 if whole else np.float64)).T).T
    count = np.multiply.outer(*(_pairwise_sum(np.ones(n, np.uint16)) for n in image.shape))
    mean: Image = ((total + count // 2) // count if whole else total / count).astype(image.dtype)
    return mean


def _pairwise_sum(values: Image) -> Image:
    total = values[::2].copy()
    total[: len(values) // 2] += values[1::2]
    return total


def _level_count(size: tuple[int, ...]) -> int:
    """Levels down to SMALLEST."""
    count, longest = 1, max(size)
    while longest > SMALLEST:
        count, longest = count + 1, -(-longest // 2)
    return count


def _level_shapes(shape: tuple[int, ...], count: int) -> list[tuple[int, ...]]:
    shapes = [shape]
    while len(shapes) < count:
        shapes.append((*shape[:-2], *(-(-n // 2) for n in shapes[-1][-2:])))
    return shapes


def _windows(shape: tuple[int, ...], side: int) -> Iterator[tuple[int, int, slice, slice]]:
    """(column, row, rows, columns) of the blocks that cover the last two axes, row by row."""
    height, width = shape[-2:]
    for y in range(0, height, side):
        for x in range(0, width, side):
            yield x // side, y // side, slice(y, min(y + side, height)), slice(x, min(x + side, width))


def _axes(dimensions: int) -> list[dict[str, str]]:
    channel = [{"name": "c", "type": "channel"}]
    space = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    return (channel + space)[-dimensions:]


def _density_display(densest: float) -> dict[str, Any]:
    return {"channels": [_channel("Objects per mm^2", (255,) * 3, densest or 1.0)], "rdefs": {"model": "greyscale"}}


def _channel(name: str, color: Any, most: float = 255) -> dict[str, Any]:
    window = {"min": 0, "max": most, "start": 0, "end": most}
    return {"label": name, "color": "".join(f"{v:02X}" for v in color), "active": True, "window": window}


def _image_label(layer: Layer) -> dict[str, Any]:
    """Colours and names of pixel values. Where both are given, the specification wants them for the same values."""
    metadata: dict[str, Any] = {"source": {"image": "../../"}}
    values = sorted(layer.colors or layer.names)
    if layer.colors:
        metadata["colors"] = [{"label-value": v, "rgba": [*layer.colors[v], 255]} for v in values]
    if layer.names:
        metadata["properties"] = [{"label-value": v, "name": layer.names.get(v, str(v))} for v in values]
    return metadata

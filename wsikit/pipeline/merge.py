"""From spools to finished outputs: the second half of a run, in one thread, in one fixed order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.features import DensityBlock, FeatureKind, Features, Layer, MaskBlock
from wsikit.geometry import Region
from wsikit.pipeline.classmap import MapFacts, tissue_annotation, with_areas
from wsikit.pipeline.contract import checked_score
from wsikit.pipeline.heat import Patches
from wsikit.pipeline.overview import Field, Outlines, Scene, choose_fields, draw_overview
from wsikit.pipeline.regions import MapRegions, RegionTable
from wsikit.predictions import (
    BagPredictor,
    BagScore,
    Encoder,
    Label,
    Model,
    Objects,
    Prediction,
    Predictor,
    ScoreMap,
    area_spec,
    density_cell,
)
from wsikit.sinks import FeatureSink, InstanceLayout, InstanceSink, MaskSink, Sink, SinkContext
from wsikit.slides import BadTile, Pixels, Slide
from wsikit.stitching.areas import AreaMerge
from wsikit.stitching.bags import HeatMap, InstanceMerge, attention_tiles, percentiles
from wsikit.stitching.density import DensityMerge
from wsikit.stitching.maps import MapMerge, MapTotals
from wsikit.stitching.objects import ObjectMerge, Records
from wsikit.stitching.raster import InstanceIds, instance_blocks
from wsikit.tiling import TileGrid
from wsikit.tissue import TissueMask

OVERVIEW_SIDE = 1400
"""Longer side in px of the picture of the whole slide that goes into overview.png and the mask file."""
OVERVIEW_LEAST = 1000
"""Such a picture may be this small where it is then a level of the file, or whole pixels of one are averaged: next to
the finer level that a picture of just the size wanted would be made of, that costs a tenth."""
BLOCK = 2048
"""Side of the blocks that score maps are merged in where no sink wants another."""
DRAWN_OUTLINES = 20_000
"""Most objects that the overview shows as outlines; more show as density, made of points."""
DRAWN_POINTS = 200_000
"""Most points kept for that, and for choosing fields; of more objects every second, fourth, ..."""


ATTENTION = Label("Attention percentile", (255, 160, 0))
"""The channel of a heat map that holds attention."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What a slide's predictions came to."""

    objects: int = 0
    """Features with a class: detections, cells, points or patches."""
    objects_per_class: Mapping[str, int] = field(default_factory=dict)
    seam_conflicts: int = 0
    class_map: MapFacts | None = None
    """For score maps, where anything was analysed."""
    scores: Mapping[str, float] = field(default_factory=dict)
    """label -> score of the whole slide, for models of bags."""
    features: tuple[int, int] | None = None
    """(N, D) of the feature table, for models that embed patches."""
    density_count: float | None = None
    """Objects by the density map, for models that give one."""

    @property
    def area_fractions(self) -> Mapping[str, float]:
        """label -> share of the analysed tissue area, for score maps."""
        return self.class_map.fractions if self.class_map else {}


@dataclass(slots=True)
class _Gallery:
    """What the overview needs, gathered while results stream by: outlines while few, an even sample of points."""

    centroids: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 2), np.float32))
    """(N, 2) x, y in level-0 pixels of every ``step``-th object."""
    labels: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    """(N,) of the same objects."""
    step: int = 1
    outlines: list[NDArray[np.object_]] = field(default_factory=list)
    count: int = 0
    classes: Pixels | None = None
    find: Callable[[Region], Outlines] | None = None
    heat: HeatMap | None = None
    """Of models that score patches and weigh all alike: their classes are drawn."""

    def add(self, centroids: NDArray[np.float64], labels: NDArray[np.int64], outlines: NDArray[np.object_]) -> None:
        """Take the next objects, in level-0 pixels."""
        rows = slice(-self.count % self.step, None, self.step)
        self.centroids = np.concatenate([self.centroids, centroids[rows].astype(np.float32)])
        self.labels = np.concatenate([self.labels, labels[rows].astype(np.uint8)])
        self.count += len(labels)
        while len(self.labels) > DRAWN_POINTS:
            self.centroids, self.labels, self.step = self.centroids[::2].copy(), self.labels[::2].copy(), 2 * self.step
        self.outlines = [*self.outlines, outlines] if self.count <= DRAWN_OUTLINES else []


@dataclass(frozen=True, slots=True)
class _Embedded:
    """What a model that embeds patches made of a slide."""

    instances: InstanceMerge
    width: int
    """D, also where there is no instance."""
    score: BagScore | None
    """None where the model does not score, or there is nothing to score."""

    @classmethod
    def of(cls, name: str, model: Model, grid: TileGrid, spool: Path) -> _Embedded | None:
        """None for models that do not embed."""
        if isinstance(model, Predictor):
            return None
        instances = InstanceMerge(spool, grid.spec)
        if not isinstance(model, BagPredictor) or not len(instances):
            return cls(instances, model.width, None)
        return cls(instances, model.width, checked_score(model, instances.bag(name)))

    def boxes(self, slide: Slide) -> NDArray[np.float64]:
        """(N, 4) x0, y0, x1, y1 of the patches in level-0 pixels."""
        spec = self.instances.spec
        corners = self.instances.corners(0, len(self.instances)) * (spec.mpp / slide.mpp)
        return np.hstack([corners, corners + spec.patch * spec.mpp / slide.mpp])

    @property
    def attention(self) -> NDArray[np.float64] | None:
        """(N,) where the model attends."""
        return None if self.score is None else self.score.attention

    def patches(self, slide: Slide) -> Patches | None:
        """What the overview draws: where patches are, or how much each is attended to; None where classes are drawn."""
        if self.score is not None and self.attention is None:
            return None
        return Patches(self.boxes(slide), None if self.attention is None else percentiles(self.attention))

    def layout(self, encoder: Encoder) -> InstanceLayout:
        """What sinks of instances need to know."""
        spec = self.instances.spec
        return InstanceLayout(len(self.instances), self.width, spec.patch, 2 * spec.halo, dict(encoder.identity))


@dataclass(slots=True)
class _Merge:
    """One slide's merge; holds what its steps share."""

    slide: Slide
    predictor: Model
    grid: TileGrid
    tissue: TissueMask
    bad: tuple[BadTile, ...]
    spool: Path
    sinks: Sequence[Sink]
    embedded: _Embedded | None
    dropped: Set[tuple[int, int]]
    """(column, row) of the windows that were not good enough."""
    slide_id: str
    density: DensityMerge | None = None
    regions: Path | None = None
    """Where to write what lies in each region, for models that find objects or classes."""
    areas: AreaMerge | None = None
    """Of class maps that become areas; set while the map is written."""
    gallery: _Gallery = field(default_factory=_Gallery)

    @property
    def scale(self) -> float:
        """Level-0 pixels per lattice pixel."""
        return self.grid.spec.mpp / self.slide.mpp

    def feature_sinks(self) -> list[FeatureSink]:
        return [sink for sink in self.sinks if sink.takes == "features"]

    def mask_sinks(self) -> list[MaskSink]:
        return [sink for sink in self.sinks if sink.takes == "masks"]

    def instance_sinks(self) -> list[InstanceSink]:
        return [sink for sink in self.sinks if sink.takes == "instances"]

    def write(self) -> Merged:
        if self.embedded is not None:
            return self._write_instances(self.embedded)
        return self._write_map() if _produces(self.predictor) is ScoreMap else self._write_objects()

    def _write_instances(self, embedded: _Embedded) -> Merged:
        for part in embedded.instances.parts():
            for sink in self.instance_sinks():
                sink.write(part)
        found = Merged(features=(len(embedded.instances), embedded.width))
        score, labels = embedded.score, self.predictor.labels
        if score is None:
            return found
        tiles = attention_tiles(score, self.slide, labels)
        for feature_sink in self.feature_sinks():
            feature_sink.write(tiles)
        heat = HeatMap(score, self.grid.spec, self.grid.size)
        for mask_sink in self.mask_sinks():
            _write_all(mask_sink, heat.blocks(mask_sink.block))
        self.gallery.heat = heat if score.attention is None else None
        found = replace(found, scores={label.name: float(s) for label, s in zip(labels, score.scores, strict=True)})
        if score.instances is None:
            return found
        counts = np.bincount(tiles.labels, minlength=len(labels))
        per_class = {label.name: int(n) for label, n in zip(labels, counts, strict=True)}
        return replace(found, objects=len(tiles), objects_per_class=per_class)

    def _write_objects(self) -> Merged:
        merge, ids = ObjectMerge(self.spool), InstanceIds()
        table = RegionTable.of(self.tissue, self.slide, self.predictor.labels, has_density=self.density is not None)
        counts = np.zeros(len(self.predictor.labels), np.int64)
        for records, origin in merge:
            x, y = records.centroids.T
            on_tissue = self.tissue.contains(x, y, self.grid.spec.mpp)
            records, origin = records[on_tissue], origin[on_tissue]
            if not len(records):
                continue
            ids.assign(records, origin, int(counts.sum()) + 1)
            counts += np.bincount(records.labels, minlength=len(counts))
            table.add_objects(records.centroids, records.labels, self.grid.spec.mpp)
            features = self._features(records)
            self.gallery.add(records.centroids * self.scale, records.labels, features.geometries)
            for sink in self.feature_sinks():
                sink.write(features)
        plane = self.slide.plane(self.grid.spec.mpp)
        if _produces(self.predictor) is Objects:
            for mask_sink in self.mask_sinks():
                _write_all(mask_sink, instance_blocks(ids, plane, mask_sink.block))
        self.gallery.find = lambda region: self._outlines(ids, region)
        self._write_density(table)
        if self.regions is not None:
            table.write(self.regions, self.slide_id)
        found = {label.name: int(n) for label, n in zip(self.predictor.labels, counts, strict=True)}
        return Merged(int(counts.sum()), found, merge.seam_conflicts, density_count=table.density_count)

    def _write_density(self, table: RegionTable) -> None:
        """Density to the regions and to those sinks of masks that take it."""
        density = self.density
        if density is None:
            return
        sinks: list[Any] = [sink for sink in self.mask_sinks() if hasattr(sink, "write_density")]
        cell_mm2 = density.plane.mpp**2 / 1e6
        for region, objects in density.blocks(sinks[0].block if sinks else BLOCK):
            for counts in density.counts(region, objects):
                table.add_density(counts, self.grid.spec.mpp)
            for sink in sinks:
                sink.write_density(DensityBlock(region, (objects / cell_mm2).astype(np.float32)))

    def _features(self, records: Records) -> Features:
        kind: FeatureKind = "detection" if records.nuclei is None else "cell"
        nuclei = None if records.nuclei is None else self._level0(records.nuclei)
        measured = {"Score": records.scores, **records.measurements}
        return Features(kind, self._level0(records.geometries), records.labels, measured, nuclei)

    def _level0(self, geometries: NDArray[np.object_]) -> NDArray[np.object_]:
        scale = self.scale
        moved: NDArray[np.object_] = shapely.transform(geometries, lambda xy: xy * scale)
        return moved

    def _outlines(self, ids: InstanceIds, region: Region) -> Outlines:
        """Every object that meets a region."""
        parts = [ids.load(path) for path in ids.touching(region)]
        if not parts:
            return Outlines.none()
        shapes = self._level0(np.concatenate([shapes for shapes, _, _ in parts]))
        labels = np.concatenate([labels for _, _, labels in parts])
        return Outlines(shapes, labels).inside(region.level0(self.slide))

    def _write_map(self) -> Merged:
        labels, mpp = self.predictor.labels, self.grid.spec.mpp
        merge, sinks = self.map_merge(), self.mask_sinks()
        side = sinks[0].block if sinks else BLOCK
        spec = area_spec(self.predictor)
        self.areas = None if spec is None else AreaMerge(merge, labels, spec, side)
        totals = MapTotals(len(labels))
        table = MapRegions.of(self.tissue, self.slide, labels)
        step = max(1, max(self.grid.size) // OVERVIEW_SIDE)
        small = np.zeros((-(-self.grid.size[1] // step), -(-self.grid.size[0] // step)), np.uint8)
        for block in merge.blocks(side) if self.areas is None else self.areas.blocks():
            for sink in sinks:
                sink.write(block)
            totals.add(block)
            table.add(block)
            _downsample_into(small, block, step)
        self.gallery.classes = _foreground(small, labels)
        facts = MapFacts.of(totals, labels, mpp)
        annotations = tissue_annotation(self.tissue, self.slide, facts)
        if self.areas is not None:
            annotations = with_areas(annotations, self.areas.areas(), mpp, self.slide)
        for feature_sink in self.feature_sinks():
            feature_sink.write(annotations)
        if self.regions is not None:
            table.write(self.regions, self.slide_id)
        return Merged(class_map=facts if totals.pixels.any() else None)

    def classes(self, region: Region) -> Pixels | None:
        """The class map of a region, merged once more; None where nothing was predicted."""
        if self.areas is not None:
            return self.areas.classes(region)
        block = self.map_merge().block(region)
        return None if block is None else block.layers["classes"].astype(np.uint8, copy=False)

    def map_merge(self) -> MapMerge:
        boxes = [tile.lattice(1 / self.scale) for tile in self.bad]
        return MapMerge(self.spool, self.grid, len(self.predictor.labels), self.tissue, boxes, self.dropped)


def merge(
    slide: Slide,
    slide_id: str,
    predictor: Model,
    grid: TileGrid,
    tissue: TissueMask,
    bad: tuple[BadTile, ...],
    spool: Path,
    sinks: Sequence[Sink],
    overview: Path | None,
    dropped: Set[tuple[int, int]] = frozenset(),
    patient: str | None = None,
    regions: Path | None = None,
) -> Merged:
    """Merge the spools of a slide into its sinks, then draw the overview; then sinks commit, in their order.

    ``grid`` holds the windows that were predicted, ``dropped`` (column, row) of those that were not good enough;
    ``regions`` is where a table of what lies in each region goes, where there are objects or classes.

    Raises:
        OutputError: something cannot be written. Nothing half-written is left behind, and no sink that had not begun to
            commit shows anything. Where a commit fails, what was whole by then stays and has replaced what was there
            before: table, overview and the sinks that came first. A run of a folder removes them.
    """
    picture, mpp = overview_picture(slide)
    cell = density_cell(predictor)
    density = DensityMerge(spool, grid, cell, tissue) if cell else None
    context = SinkContext(
        slide_id=slide_id,
        slide_mpp=slide.mpp,
        bounds_offset=slide.bounds_offset,
        mpp=grid.spec.mpp,
        size=grid.size,
        labels=predictor.labels,
        model=predictor.name,
        layers=_layers(predictor),
        has_scores=_produces(predictor) is ScoreMap,
        has_confidence=_produces(predictor) is ScoreMap,
        overview=picture,
        overview_mpp=mpp,
        levels=slide.levels,
        patient=patient,
        tissue_um2=tissue.area_um2,
        density=None if density is None else density.plane,
    )
    embedded = _Embedded.of(slide_id, predictor, grid, spool)
    if embedded is not None:
        assert isinstance(predictor, Encoder)
        context = replace(context, instances=embedded.layout(predictor))
    work = _Merge(slide, predictor, grid, tissue, bad, spool, sinks, embedded, dropped, slide_id, density, regions)
    begun: list[Sink] = []
    try:
        for sink in sinks:
            begun.append(sink)
            sink.begin(_of_heat_map(context, work) if embedded and sink.takes == "masks" else context)
        merged = work.write()
        if overview is not None:
            draw_overview(_scene(work, slide_id, merged, picture, mpp), overview)
        for sink in sinks:
            sink.commit()
    except BaseException:
        for sink in begun:
            # what cannot be removed keeps its temporary name; the error that led here is the one to tell
            with suppress(OSError):
                sink.abort()
        raise
    return merged


def overview_picture(slide: Slide) -> tuple[Pixels, float]:
    """(H, W, 3) of the whole slide, at most about ``OVERVIEW_SIDE`` px a side, and its um per pixel."""
    mpp = _overview_mpp(slide)
    return slide.read_partial(slide.plane(mpp)).pixels, mpp


def _overview_mpp(slide: Slide) -> float:
    longest_um = max(slide.width, slide.height) * slide.mpp
    wanted = longest_um / OVERVIEW_SIDE
    coarsest = max(level.mpp for level in slide.levels if level.index == 0 or level.mpp * OVERVIEW_LEAST <= longest_um)
    whole = coarsest * max(1, math.ceil(wanted / coarsest))
    return slide.resolve(whole if whole * OVERVIEW_LEAST <= longest_um else max(slide.mpp, wanted))


def _produces(model: Model) -> type[Prediction] | None:
    return model.produces if isinstance(model, Predictor) else None


def _layers(model: Model) -> tuple[Layer, ...]:
    if _produces(model) is ScoreMap:
        return (_classes(model.labels),)
    return (_classes(model.labels), Layer("instances", "uint32")) if _produces(model) is Objects else ()


def _classes(labels: Sequence[Label]) -> Layer:
    colors = {i: label.color for i, label in enumerate(labels, 1)}
    return Layer("classes", "uint8", colors, {i: label.name for i, label in enumerate(labels, 1)})


def _of_heat_map(context: SinkContext, work: _Merge) -> SinkContext:
    """What a sink of masks needs to know where it gets one pixel per patch."""
    score = work.embedded.score if work.embedded else None
    if score is None:
        return context
    plane = HeatMap(score, work.grid.spec, work.grid.size).plane
    attended = (ATTENTION,) if score.attention is not None else ()
    scored = context.labels if score.instances is not None else ()
    return replace(
        context,
        mpp=plane.mpp,
        size=(plane.width, plane.height),
        labels=(*attended, *scored),
        layers=(_classes(context.labels),) if scored else (),
        has_scores=bool(attended or scored),
    )


def _write_all(sink: MaskSink, blocks: Iterable[MaskBlock]) -> None:
    for block in blocks:
        sink.write(block)


def _downsample_into(small: Pixels, block: MaskBlock, step: int) -> None:
    """Put every ``step``-th pixel of a block's classes where it belongs."""
    region, classes = block.region, block.layers["classes"]
    x, y = -region.x % step, -region.y % step
    part = classes[y::step, x::step]
    row, column = (region.y + y) // step, (region.x + x) // step
    small[row : row + part.shape[0], column : column + part.shape[1]] = part


def _scene(work: _Merge, slide_id: str, merged: Merged, picture: Pixels, mpp: float) -> Scene:
    gallery, slide = work.gallery, work.slide
    patches = work.embedded.patches(slide) if work.embedded else None
    if gallery.heat is not None:
        gallery.classes = _patch_classes(work, slide.plane(mpp))
    if gallery.classes is not None:
        rows, columns = np.nonzero(gallery.classes)
        step = slide.width / gallery.classes.shape[1]
        centroids = np.stack([columns + 0.5, rows + 0.5], axis=1) * step
    elif work.embedded is not None:
        boxes = work.embedded.boxes(slide)
        centroids = (boxes[:, :2] + boxes[:, 2:]) / 2
    else:
        centroids = gallery.centroids
    return Scene(
        slide_id=slide_id,
        slide_mpp=slide.mpp,
        size=(slide.width, slide.height),
        picture=picture,
        picture_mpp=mpp,
        model=work.predictor.name,
        mpp=work.grid.spec.mpp,
        labels=work.predictor.labels,
        tissue=work.tissue.polygons(slide),
        objects=_drawn(gallery),
        classes=gallery.classes,
        fields=tuple(_fields(work, centroids)),
        counts=merged.objects_per_class,
        fractions=merged.area_fractions,
        patches=patches,
        features=None if patches is None else merged.features,
        scores={} if patches is None else merged.scores,
        bad=[tile.level0() for tile in work.bad],
    )


def _drawn(gallery: _Gallery) -> Outlines:
    """All outlines where they are few enough to be seen, else objects as points."""
    labels = gallery.labels.astype(np.int64)
    if gallery.outlines:
        return Outlines(np.concatenate(gallery.outlines), labels)
    return Outlines(shapely.points(gallery.centroids.astype(np.float64)), labels)


def _fields(work: _Merge, centroids: NDArray[np.floating]) -> Iterator[Field]:
    slide, mpp = work.slide, work.grid.spec.mpp
    score = work.embedded.score if work.embedded else None
    if score is not None and score.attention is not None:
        # the patches that decide are what a reader wants to see; of equal ones the first
        regions = tuple(score.regions[i] for i in np.argsort(-score.attention, kind="stable")[:2])
    else:
        regions = choose_fields(
            centroids.astype(np.float64), size=(slide.width, slide.height), slide_mpp=slide.mpp, mpp=mpp
        )
    for region in regions:
        pixels = slide.read_partial(region).pixels
        objects = work.gallery.find(region) if work.gallery.find else Outlines.none()
        yield Field(region, pixels, objects, _classes_of(work, region))


def _classes_of(work: _Merge, region: Region) -> Pixels | None:
    """The class map of a field: of patches, or of a score map, merged once more for this region only."""
    if work.gallery.heat is not None:
        return _patch_classes(work, region)
    if _produces(work.predictor) is not ScoreMap:
        return None
    classes = work.classes(region)
    return None if classes is None else _foreground(classes, work.predictor.labels)


def _patch_classes(work: _Merge, region: Region) -> Pixels | None:
    classes = work.gallery.heat.sampled(region) if work.gallery.heat else None
    return None if classes is None else _foreground(classes, work.predictor.labels)


def _foreground(classes: Pixels, labels: Sequence[Label]) -> Pixels:
    """Class values with the background label's taken out."""
    shown = np.array([0, *(0 if label.background else k for k, label in enumerate(labels, 1))], np.uint8)
    return shown[classes]

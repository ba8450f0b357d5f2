"""What a run would do, found without running the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from wsikit.config import RunConfig
from wsikit.errors import WsikitError
from wsikit.pipeline.batch import checked_model, is_done, own_names, promise_for
from wsikit.pipeline.each import refuse_foreign, refuse_other_slide, refuse_out
from wsikit.pipeline.inputs import SlideEntry
from wsikit.pipeline.planned import Planned
from wsikit.pipeline.settings import tissue_of
from wsikit.slides import open_slide
from wsikit.tiling import SUPERTILE, TileGrid


def plan(
    entries: Sequence[SlideEntry], out: Path, config: RunConfig, *, force: bool = False, retry_failed: bool = False
) -> Iterator[Planned]:
    """One line per slide and a total. Opens every slide and finds its tissue; writes nothing.

    Raises:
        UnknownNameError: the model or an output format does not exist.
        ConfigError: a configuration that no slide could be run with; code no_memory where max_memory is too little.
        OutputError: the output folder is none that a run could work in, or would replace files of others.
    """
    predictor = checked_model(entries, config)
    refuse_out(out)
    for entry in entries:
        refuse_foreign(out / entry.slide_id, own_names())
    promise = promise_for(entries, out, config, predictor, force=force, retry_failed=retry_failed)
    side = promise.sizes.side if promise else config.supertile or SUPERTILE
    todo = patches = 0
    for entry in entries:
        if entry.part_of is not None:
            yield Planned.part(entry)
            continue
        if not force and is_done(entry, out, config, predictor, retry_failed=retry_failed):
            yield Planned.kept(entry, out / entry.slide_id)
            continue
        try:
            refuse_other_slide(out / entry.slide_id, entry)
            with open_slide(entry.path, entry.mpp or config.mpp_override, isolate=config.isolate) as slide:
                grid = TileGrid.cover(slide, predictor.tile, tissue_of(slide, entry, config))
                tasks = len(grid.supertiles(side))
                size = f"{slide.width}x{slide.height} px at {slide.mpp:.4g} um/px ({slide.reader.name})"
        except WsikitError as error:
            yield Planned.failing(entry, error)
            continue
        todo, patches = todo + 1, patches + len(grid)
        windows = f"{len(grid)} patches of {grid.spec.patch} px in {tasks} super-tiles"
        yield Planned(f"{entry.slide_id}: {size}, {windows}")
    if promise:
        yield Planned(str(promise))
    formats = ", ".join(config.format)
    yield Planned(f"{todo} of {len(entries)} slides to run, {patches} patches, formats {formats}, into {out}")

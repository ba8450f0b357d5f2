"""What a configuration stands for: where to look on a slide, which patches are good enough, where results go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wsikit.config import RunConfig, TissueConfig
from wsikit.pipeline.inputs import SlideEntry
from wsikit.pipeline.roi import drawn_tissue, limited_to_roi, roi_file
from wsikit.pipeline.run import default_tissue
from wsikit.quality import ANY_QUALITY, QualityFilter
from wsikit.sinks import Sink, sink_class
from wsikit.slides import Slide
from wsikit.tissue import TissueMask, find_tissue


def quality_filter(config: TissueConfig) -> QualityFilter:
    """Which patches are good enough. Raises ConfigError for what is no filter."""
    return ANY_QUALITY if config.qc is None else QualityFilter.parse(config.qc)


def make_sinks(config: RunConfig, folder: Path) -> list[Sink]:
    """The sinks that a configuration asks for, writing into a slide's folder."""
    options: dict[str, dict[str, Any]] = {"geojson.gz": {"split": config.split}, "omezarr": {"ngff": config.ngff}}
    made: list[Sink] = []
    for name in dict.fromkeys(config.format):
        sink = sink_class(name)
        made.append(sink(folder / sink.filename, **options.get(name, {})))
    return made


def tissue_of(slide: Slide, entry: SlideEntry, config: TissueConfig) -> TissueMask:
    """Where to look on a slide: the manifest's mask, or what the configuration says; inside the region of interest."""
    roi = roi_file(entry, config)
    if entry.mask_path is not None:
        mask = drawn_tissue(entry.mask_path, slide, config)
    elif config.tissue == "whole":
        mask = TissueMask.whole(slide)
    else:
        mask = find_tissue(slide) if config.tissue == "detect" else default_tissue(slide)
    return mask if roi is None else limited_to_roi(mask, roi, slide, config)

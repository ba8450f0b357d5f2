"""wsikit: whole-slide images in, answers in slide coordinates out.

Names are loaded when they are first used, so importing wsikit is fast and never imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wsikit.errors import WsikitError
    from wsikit.geometry import Level, Region, TileSpec
    from wsikit.pipeline.batch import run_many
    from wsikit.pipeline.inputs import find_slides
    from wsikit.pipeline.run import RunReport, run
    from wsikit.predictors import load_predictor
    from wsikit.sinks.geojson import GeoJSONSink
    from wsikit.sinks.omezarr import OmeZarrSink
    from wsikit.slides import Slide, open_slide
    from wsikit.streaming import batches
    from wsikit.tiling import TileGrid
    from wsikit.tissue import TissueMask, find_tissue

_HOME = {
    "WsikitError": "wsikit.errors",
    "Level": "wsikit.geometry",
    "Region": "wsikit.geometry",
    "TileSpec": "wsikit.geometry",
    "run_many": "wsikit.pipeline.batch",
    "find_slides": "wsikit.pipeline.inputs",
    "RunReport": "wsikit.pipeline.run",
    "run": "wsikit.pipeline.run",
    "load_predictor": "wsikit.predictors",
    "GeoJSONSink": "wsikit.sinks.geojson",
    "OmeZarrSink": "wsikit.sinks.omezarr",
    "Slide": "wsikit.slides",
    "open_slide": "wsikit.slides",
    "TileGrid": "wsikit.tiling",
    "batches": "wsikit.streaming",
    "TissueMask": "wsikit.tissue",
    "find_tissue": "wsikit.tissue",
}

__all__ = [
    "GeoJSONSink",
    "Level",
    "OmeZarrSink",
    "Region",
    "RunReport",
    "Slide",
    "TileGrid",
    "TileSpec",
    "TissueMask",
    "WsikitError",
    "batches",
    "find_slides",
    "find_tissue",
    "load_predictor",
    "open_slide",
    "run",
    "run_many",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("wsikit")
    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module 'wsikit' has no attribute {name!r}") from None
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return __all__

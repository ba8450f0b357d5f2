"""Slides to patch datasets: ``wsikit tile``.

    open_slide -> tissue -> patch_grid -> glass left out -> PatchEncoder -> PatchWriter
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsikit.config import TileConfig
from wsikit.errors import ConfigError, PixelReadError, ResolutionError
from wsikit.geometry import TileSpec
from wsikit.glass import GlassTest
from wsikit.patches import FORMATS, PatchRows, PatchSet, PatchWriter
from wsikit.pipeline.batch import quality_filter, tissue_of
from wsikit.pipeline.each import OVERVIEW, Advance, Observer, clear, each_slide, refuse_foreign
from wsikit.pipeline.encode import PatchEncoder, can_pass, read_level
from wsikit.pipeline.heat import Patches
from wsikit.pipeline.inputs import SlideEntry
from wsikit.pipeline.merge import overview_picture
from wsikit.pipeline.overview import Scene, draw_overview
from wsikit.pipeline.roi import check_roi, content_hash, roi_file
from wsikit.pipeline.run import Clock, peak_rss_mb, size_on_disk
from wsikit.pipeline.state import Record, digest, source_stamp, write_record
from wsikit.quality import Quality
from wsikit.slides import BadTile, Slide, open_slide
from wsikit.tiling import TileGrid
from wsikit.tissue import TissueMask

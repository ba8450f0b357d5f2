"""How much context nuclei need: `python benchmarks/halo.py SLIDE [--model MODEL] [--mpp MPP]`.

The slide is run in windows with more and more context around them, and held against one window that holds it all, with
512 px of context. Printed is how many nuclei are the same to the last bit, nearly the same (outlines of an IoU of 0.9),
lost and new, and the pixels that a window has for each that counts.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsikit.pipeline.run import run
from wsikit.predictors import load_predictor
from wsikit.sinks.memory import FeatureList
from wsikit.slides import Slide, open_slide
from wsikit.tissue import TissueMask

FAR = 512
"""px of context that count as all."""
STEP = 32
"""Windows are whole multiples of it, px."""
SAME = 0.9
"""IoU from which on two outlines are nearly the same."""


def nuclei(slide: Slide, model: Any, core: int, halo: int) -> NDArray[np.object_]:
    """Outlines, level-0 px."""
    said = FeatureList()
    tile = replace(model.tile, core=core, halo=halo)
    run(slide, replace(model, tile=tile), said, mask=TissueMask.whole(slide), supertile=core)
    return said.geometries


def compared(all_seen: NDArray[np.object_], found: NDArray[np.object_]) -> str:
    """How many of the first are among the second."""
    exact = len({*shapely.to_wkb(all_seen)} & {*shapely.to_wkb(found)})
    mine, theirs = shapely.STRtree(found).query(all_seen, predicate="intersects")
    shared = shapely.area(shapely.intersection(all_seen[mine], found[theirs]))
    iou = shared / (shapely.area(all_seen[mine]) + shapely.area(found[theirs]) - shared)
    near = len(np.unique(mine[iou >= SAME]))
    return (
        f"{exact / len(all_seen):7.2%} the same, {near / len(all_seen):7.2%} nearly, "
        f"{len(all_seen) - near} others of {len(all_seen)}, {len(found)} found"
    )


def main() -> None:
    """A line for each halo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slide", type=Path)
    parser.add_argument("--model", default="nuclei")
    parser.add_argument("--mpp", type=float)
    parser.add_argument("--core", type=int, default=512, help="side of windows without context, px")
    parser.add_argument("--halos", type=int, nargs="+", default=[32, 64, 96, 128, 192, 256], metavar="PX")
    asked = parser.parse_args()
    model = load_predictor(asked.model, mpp=asked.mpp)
    with open_slide(asked.slide) as slide:
        side = max(slide.size_at(slide.resolve(model.tile.mpp)))
        all_seen = nuclei(slide, model, -(-side // STEP) * STEP, FAR)
        for halo in asked.halos:
            more = ((asked.core + 2 * halo) / asked.core) ** 2
            print(
                f"halo {halo:4} px: {compared(all_seen, nuclei(slide, model, asked.core, halo))}, {more:.2f} x pixels"
            )


if __name__ == "__main__":
    main()

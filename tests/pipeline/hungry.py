"""A model that takes more and more memory on slides whose name begins with "hungry", and says in a file that it did."""

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from wsikit.geometry import TileSpec
from wsikit.predictions import Label, Points

STEP, STEPS = 64 << 20, 64


@dataclass(frozen=True)
class Hungry:
    slide: str = ""
    name = "hungry"
    labels = (Label("Nothing", (0, 0, 0)),)
    produces = Points
    tile = TileSpec(0.5, 256, 0)
    identity = MappingProxyType({"version": 1})

    @property
    def bound(self):
        return {"slide": self.slide}

    def prepare(self, slide, tissue):
        return replace(self, slide=str(slide.path))

    def predict(self, batch):
        if Path(self.slide).name.startswith("hungry"):
            with Path(self.slide).with_suffix(".log").open("a") as log:
                log.write(f"{os.getpid()}\n")
            kept = []
            for _ in range(STEPS):
                kept.append(np.ones(STEP, np.uint8))
                time.sleep(0.02)
        return [Points(region, np.zeros((0, 2)), np.zeros(0, np.int64), np.zeros(0)) for region in batch.regions]

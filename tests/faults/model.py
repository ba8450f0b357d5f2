"""A model that finds dark things, and comes to grief on slides whose name says how."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from tests.conformance import worker_tasks
from tests.planted import BlobPredictor
from wsikit.predictions import Batch, Objects
from wsikit.slides import Slide
from wsikit.tissue import TissueMask

HOW = ("segfault", "hang", "swell", "ask_for_too_much")


@dataclass(frozen=True)
class Faulty(BlobPredictor):
    """It predicts well in the left of a slide."""

    how: str = ""

    def prepare(self, slide: Slide, tissue: TissueMask) -> Self:
        how = next((how for how in HOW if how in slide.path.name), "")
        return replace(self, prepared=True, how=how)

    def predict(self, batch: Batch) -> list[Objects]:
        if self.how and max(region.x for region in batch.regions) >= 64:
            getattr(worker_tasks, self.how)()
        return super().predict(batch)

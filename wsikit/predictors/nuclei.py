"""Nuclei in H&E by a network that comes with wsikit: weights of the method ``points``, with their card beside them.

configs/nuclei.yaml says how they were made, ``benchmarks/points.py`` on which splits that was measured, docs/nuclei.md
what is known of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from wsikit.predictions import Model

WEIGHTS = Path(__file__).with_name("nuclei.safetensors")


class Nuclei:
    """Makes the predictor; what it is, its card says."""

    description: ClassVar[str] = "nuclei in H&E, by a network whose weights come with wsikit; needs wsikit[nn]"

    @staticmethod
    def create(mpp: float | None = None, min_tissue: float | None = None, device: str = "auto") -> Model:
        """As ``wsikit.methods.points.load_predictor`` of the weights.

        Raises:
            ConfigError: no torch (code no_torch), no such device, or a resolution that the network has not seen.
        """
        from wsikit.predictors import load_predictor

        return load_predictor(f"points:{WEIGHTS}", mpp=mpp, min_tissue=min_tissue, device=device)

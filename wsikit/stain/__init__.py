"""Stain normalisation and augmentation. To add a method: one file here and one row in ``STAINS``.

    target = Macenko.fit(reference)
    image = target.transform(image)  # the colours of one image
    image = target.transform(image, source=Macenko.fit(sample_of_the_slide))  # the same for all patches of a slide

A method is a ``StainProfile``: what it knows of the colours of a slide, fitted once, and how pixels with the colours of
one profile get those of another.
"""

from __future__ import annotations

from wsikit.registry import Registry
from wsikit.stain.profile import StainProfile

__all__ = ["STAINS", "StainProfile"]

STAINS = Registry(
    "stain method",
    [
        ("macenko", "wsikit.stain.macenko:Macenko"),
        ("reinhard", "wsikit.stain.reinhard:Reinhard"),
    ],
)
"""Method name -> ``StainProfile`` class."""

"""Which builds of C libraries decode pixels here, as far as they can be asked: Python's versions do not tell."""

from __future__ import annotations

import re
from functools import cache

_CODECS = ("libjpeg_turbo", "openjpeg", "libtiff", "zlib", "zlib_ng", "libdeflate", "libwebp")
"""Of imagecodecs, what slides are compressed with."""


@cache
def reader_builds() -> dict[str, str]:
    """Library (and package that holds it) -> version. What libjpeg-turbo simplejpeg holds it does not tell: its own
    version stands for it."""
    import imagecodecs
    import openslide
    import simplejpeg
    from PIL import features

    told = dict(re.findall(r"(\w+)-(\S+?)(?:,|\s|$)", imagecodecs.version()))
    return {
        "openslide": openslide.__library_version__,
        "simplejpeg": simplejpeg.__version__,
        **{f"{name} (imagecodecs)": told[name] for name in _CODECS if name in told},
        **{f"{name} (pillow)": str(features.version(name)) for name in ("libjpeg_turbo", "zlib")},
    }

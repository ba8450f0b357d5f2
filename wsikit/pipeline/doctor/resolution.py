"""Whether a slide's mpp can be right: what the file says, against what its objective and usual scanners say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from wsikit.pipeline.doctor.findings import Finding
from wsikit.slides.resolution import POWER_MPP, number

POWER = re.compile(r"openslide\.objective-power|aperio\.AppMag|tiffslide\.objective-power|.*\.ObjectiveLensPower")
APART = 1.5
"""Factor by which mpp times power may differ from ``POWER_MPP``. Scanners call 0.37 to 0.66 um per px 20x, and 0.17 to
0.33 40x; an mpp of the wrong power is off by 2 or more."""
USUAL = (0.1, 2.5)
"""um per px of slide scanners: 100x oil to 4x."""
REMEDY = "measure something known (a red cell is 7 um across); if needed, say --mpp-override or a manifest column mpp"


def objective_power(properties: Mapping[str, str]) -> float | None:
    """What the file says that its objective magnifies, with a doubler where that is counted in; None where it does not.

    Aperio, Hamamatsu and DICOM name the power at which the slide was scanned. 3DHISTECH names the lens alone, and its
    20x lens gives 0.23 um per px with one camera adapter and 0.37 with another: that says nothing of the mpp.
    """
    if properties.get("openslide.vendor") == "mirax":
        return None
    stated = [number(value) for key, value in sorted(properties.items()) if POWER.fullmatch(key)]
    return next((power for power in stated if power is not None and power > 0), None)


def doubtful_mpp(mpp: float, source: str, power: float | None, *, is_field: bool, is_dicom: bool) -> Iterator[Finding]:
    """Findings about an mpp that is possible, and may still be wrong.

    Args:
        mpp: um per level-0 px that a run would go by.
        source: where it comes from.
        power: of the objective, where the file says.
        is_field: whether it is a plain image, which any microscope may have taken.
        is_dicom: whether levels lie in files of their own, so that the finest may be missing.
    """
    if power is not None and not 1 / APART <= mpp * power / POWER_MPP <= APART:
        lost = is_dicom and mpp * power > POWER_MPP
        also = "; the file with the finest level may be missing" if lost else ""
        said = (
            f"{source} says {mpp:.4g} um per px, and an objective of {power:g}x has about {POWER_MPP / power:.3g}{also}"
        )
        yield Finding("mpp_against_power", "warning", said, REMEDY)
    elif not is_field and not USUAL[0] <= mpp <= USUAL[1]:
        said = f"{source} says {mpp:.4g} um per px; scanners have {USUAL[0]} to {USUAL[1]}"
        yield Finding("unusual_mpp", "warning", said, REMEDY)

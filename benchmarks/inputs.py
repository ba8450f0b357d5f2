"""The slides of the benchmarks, made of the sample slide: `python benchmarks/inputs.py` (`make bench-inputs`).

All pixels are real. The *mosaic* repeats, mirrored, a square of 2208 px that is about half tissue and half glass, as
slides are; the *tissue30* slides carry a dense piece of 1008 px on 30 % of their area, the rest being plain glass. Both
sides share few factors with the tiles, so that tiles hardly ever repeat (a reader that knew tiles by content would gain
nothing). They say 0.25 um per px and hold levels at 0.25, 1 and 4.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from wsikit.samples import sample
from wsikit.slides import open_slide
from wsikit.slides.pyramid import Codec, write_pyramid

FOLDER = Path(__file__).with_name("data")
MPP = 0.25
MOSAIC, DENSE = 2208, 1008
"""Sides in px of the pieces that are repeated: multiples of the last downsample, 16."""
SIDES = (8192, 16384, 32768)


@dataclass(frozen=True)
class Input:
    """One slide."""

    side: int
    """px of level 0, square."""
    tissue: float = 1.0
    """Share of the area that carries the picture; 1 is the mosaic."""
    codec: Codec = "jpeg420"
    quality: int = 80
    tile: int = 256

    @property
    def name(self) -> str:
        """Says all that there is to say, so that a file is made again only when something changes."""
        kind = "mosaic" if self.tissue == 1 else f"tissue{self.tissue * 100:.0f}"
        return f"{kind}-{self.side}-{self.codec}-q{self.quality}-t{self.tile}.svs"

    def path(self, folder: Path = FOLDER) -> Path:
        """The file, made now if it is not there."""
        target = folder / self.name
        if not target.exists():
            folder.mkdir(parents=True, exist_ok=True)
            with open_slide(sample()) as source:
                write_pyramid(
                    target,
                    source,
                    size=(self.side, self.side),
                    mpp=MPP,
                    tissue=self.tissue,
                    tile=self.tile,
                    quality=self.quality,
                    codec=self.codec,
                    crop=MOSAIC if self.tissue == 1 else DENSE,
                )
        return target


def inputs(sides: tuple[int, ...] = SIDES) -> list[Input]:
    """What a run on these sizes reads."""
    middle = sides[len(sides) // 2]
    return [
        *(Input(side) for side in sides),
        *(Input(side, tissue=0.3) for side in sides),
        Input(sides[-1], tissue=0.3, tile=240),
        Input(middle, tile=240),
        Input(middle, codec="jpeg444", quality=90),
        Input(sides[0], codec="jpeg2000", quality=36),
    ]


def main() -> None:
    """Make what is missing and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES)
    for one in inputs(tuple(parser.parse_args().sides)):
        path = one.path()
        print(f"{path.stat().st_size / 2**20:8.1f} MiB  {path}", flush=True)


if __name__ == "__main__":
    main()

"""What of cutting patches is libjpeg-turbo's own work: `python benchmarks/codecs.py`.

The job of bench T1 with one thread, timed as a whole and in the two calls that decode a tile and encode a patch. A job
that did nothing else would take their sum, so that the rest is all that could be saved. CPU seconds of one process and
of its threads, so that other work on the machine matters less. The second of two runs counts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benches import Input

import wsikit.pipeline.encode
import wsikit.slides.jpeg
from wsikit.config import TileConfig
from wsikit.pipeline.inputs import find_slides
from wsikit.pipeline.tile import tile_many


class Timed:
    """A function whose CPU seconds are summed, and the kinds of call that it got."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds, self.calls = function, 0.0, 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        begun = time.thread_time()
        try:
            return self.function(*args, **kwargs)
        finally:
            self.seconds += time.thread_time() - begun
            self.calls += 1


def main() -> None:
    """Print CPU seconds of the parts, and as the last line JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=32768, help="of the slide, px")
    slide = Input(parser.parse_args().side, tissue=0.3, tile=240)
    decoder, encoder = wsikit.slides.jpeg.simplejpeg.decode_jpeg, wsikit.pipeline.encode.encode
    for _ in range(2):
        decode, encode = Timed(decoder), Timed(encoder)
        wsikit.slides.jpeg.simplejpeg.decode_jpeg, wsikit.pipeline.encode.encode = decode, encode
        with tempfile.TemporaryDirectory() as folder:
            begun = time.process_time()
            config = TileConfig(mpp=0.25, size=256, min_tissue=0.5, quality=80, num_workers=1)
            (record,) = tile_many(find_slides(str(slide.path()), folder), Path(folder), config)
            whole = time.process_time() - begun
    parts = {"decode": decode.seconds, "encode": encode.seconds, "rest": whole - decode.seconds - encode.seconds}
    for name, seconds in parts.items():
        print(f"{name:8} {seconds:6.2f} CPU s  {seconds / whole:4.0%}")
    counts = {"tiles_decoded": decode.calls, "patches_encoded": encode.calls, "patches": record["patches"]}
    print(json.dumps({"whole": round(whole, 3), **{k: round(v, 3) for k, v in parts.items()}, **counts}))


if __name__ == "__main__":
    main()

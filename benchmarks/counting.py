"""The counting method on real pixels, counts only: `python benchmarks/counting.py FOLDER`.

FOLDER holds images with instance labels beside them (`NAME_labels.png`): labels are counted for training and otherwise
used for scoring only. Every seed is a split of its own, 56 images of 70 for training (7 of them choose the epochs) and
14 for testing, once image by image and once by groups of like looks (``appearance_groups``), since fields of one slide
may stand on both sides of a split by image. Beside the method stand the constant that knows the training median, the
line that colour alone draws, and the classical `nuclei` predictor, all on the same test images.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from pathlib import Path
from statistics import fmean, stdev

from wsikit.config import load_config
from wsikit.methods.counting import Config, dataset, evaluate, load_predictor, train
from wsikit.methods.counting.data import read_counts
from wsikit.pipeline.evaluate import evaluate as run_over
from wsikit.pipeline.scores import Settings
from wsikit.predictors import load_predictor as load_any
from wsikit.training.appearance import appearance_groups

GROUPS = 8
SHOWN = (
    "count_mae_ratio",
    "count_kappa",
    "dice",
    "dice_colour",
    "dice_nuclei",
    "object_f1",
    "object_f1_nuclei",
    "detection_f1",
)


def grouped(folder: Path, where: Path) -> Path:
    """The same images with a table that calls every look a slide."""
    data = read_counts(folder)
    where.mkdir()
    rows = [["image", "count", "slide"]]
    for image, look in zip(data, appearance_groups(data, GROUPS), strict=True):
        rows.append([image.name, str(image.count), look])
        labels = f"{Path(image.name).stem}_labels.png"
        for name in (image.name, labels):
            (where / name).symlink_to((folder / name).resolve())
    with (where / "counts.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return where


def one(data: Path, out: Path, seed: int, options: list[str]) -> dict[str, float]:
    """Train on a split and measure on its test images."""
    asked = [*options, f"data={data}", f"seed={seed}", "test_share=0.2", "validation_share=0.1"]
    config = load_config(Config, None, asked)
    begun = time.perf_counter()
    predictor = load_predictor(train(config, out))
    seconds = time.perf_counter() - begun
    test = dataset(config, "test")
    return evaluate(predictor, test) | _nuclei(data, [image.name for image in test], config.mpp) | {"seconds": seconds}


def _nuclei(data: Path, names: list[str], mpp: float) -> dict[str, float]:
    """The classical predictor on the same images."""
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            for path in (name, f"{Path(name).stem}_labels.png"):
                (Path(folder) / path).symlink_to((data / path).resolve())
        found = run_over(load_any("nuclei-classical", mpp=mpp), folder, settings=Settings(mpp_override=mpp)).metrics()
    return {f"{name}_nuclei": found[name].pooled for name in ("dice", "object_f1")}


def main() -> None:
    """A line for each split, appended to a file; mean and deviation over seeds of all that the file holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--by", choices=["image", "look"], nargs="+", default=["image", "look"])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an option of the method")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/counting.jsonl"))
    asked = parser.parse_args()
    options = ["pseudo.channel=haematoxylin", *asked.set]
    with tempfile.TemporaryDirectory() as folder:
        sources = {"image": asked.folder, "look": grouped(asked.folder, Path(folder) / "grouped")}
        for by in asked.by:
            for seed in asked.seeds:
                metrics = one(sources[by], Path(folder) / f"{by}-{seed}", seed, options)
                line = {"by": by, "seed": seed, "options": options, **metrics}
                with asked.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
                shown = "  ".join(f"{key} {metrics[key]:.3f}" for key in (*SHOWN, "seconds"))
                print(f"by {by} {seed}: {shown}", flush=True)
    rows = [json.loads(line) for line in asked.out.read_text().splitlines()]
    for by in ("image", "look"):
        for key in SHOWN:
            values = [row[key] for row in rows if row["by"] == by]
            if values:
                spread = stdev(values) if len(values) > 1 else 0.0
                print(
                    f"by {by:6} {key:18} {fmean(values):.3f} ± {spread:.3f}  worst {_worst(key, values):.3f}  "
                    f"n {len(values)}"
                )


def _worst(key: str, values: list[float]) -> float:
    return max(values) if key == "count_mae_ratio" else min(values)


if __name__ == "__main__":
    main()

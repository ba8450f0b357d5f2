"""Nuclei from full masks or from points, on real pixels: `python benchmarks/points.py FOLDER`.

FOLDER holds images with instance labels beside them (`NAME_labels.png`). Every seed is a split of its own, of 70 images
56 for training (6 of them choose the epoch) and 14 for testing, once image by image and once by groups of like looks
(`appearance_groups`), since fields of one slide may stand on both sides of a split by image. The method and the
predictor `nuclei-classical`, which has no weights, are held against the same test images by `wsikit evaluate`'s own
function, at every resolution asked for.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import fmean, stdev

from wsikit.config import load_config
from wsikit.methods.points import Config, load_predictor, train
from wsikit.methods.points.data import PointData, read_points
from wsikit.pipeline.evaluate import evaluate
from wsikit.pipeline.scores import Settings
from wsikit.predictions import Predictor
from wsikit.predictors import load_predictor as load_any
from wsikit.training.appearance import appearance_groups
from wsikit.training.splits import Member, Splits, split_members

GROUPS = 8
SHARES = {"train": 0.72, "validation": 0.08, "test": 0.2}
METRICS = ("object_f1", "aji", "pq", "dice", "detection_f1")


def split(data: PointData, by: str, seed: int) -> Splits:
    """By image, or by groups of like looks."""
    looks = appearance_groups(data, GROUPS) if by == "look" else [None] * len(data)
    members = [Member(image.name, slide=look) for image, look in zip(data, looks, strict=True)]
    return split_members(members, SHARES, seed)


def arranged(folder: Path, data: PointData, splits: Splits, where: Path) -> Path:
    """The same images with lists of the splits, as MO has them; those of the test lie a second time in ``test``."""
    if where.is_dir():
        return where
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for name in ("images", "labels_instance", "test"):
        (where / name).mkdir(parents=True)
    for image, part in zip(data, splits.assigned, strict=True):
        lists["val" if part == "validation" else part].append(image.name)
        stem, labels = Path(image.name).stem, f"{Path(image.name).stem}_labels.png"
        places = {where / "images" / image.name: image.name, where / "labels_instance" / f"{stem}_label.png": labels}
        if part == "test":
            places |= {where / "test" / name: name for name in (image.name, labels)}
        for place, name in places.items():
            place.symlink_to((folder / name).resolve())
    (where / "train_val_test.json").write_text(json.dumps(lists), "utf-8")
    return where


def measured(predictor: Predictor, folder: Path, mpp: float) -> dict[str, float]:
    """Pooled over the images of a folder that have so many um per px."""
    found = evaluate(predictor, folder, settings=Settings(mpp_override=mpp)).metrics()
    return {name: found[name].pooled for name in METRICS}


def one(folder: Path, by: str, seed: int, options: list[str], resolutions: list[float], out: Path) -> dict[str, float]:
    """Train on a split, and measure on its test images."""
    data = read_points(folder)
    where = arranged(folder, data, split(data, by, seed), out / "data")
    config = load_config(Config, None, [*options, f"data={where}", f"seed={seed}"])
    begun = time.perf_counter()
    checkpoint = train(config, out / "training")
    found = {"seconds": time.perf_counter() - begun}
    for mpp in resolutions:
        for name, predictor in (
            ("", load_predictor(checkpoint, mpp=mpp)),
            ("nuclei-classical ", load_any("nuclei-classical", mpp=mpp)),
        ):
            for metric, value in measured(predictor, where / "test", config.mpp).items():
                found[f"{name}{metric} at {mpp:g}"] = value
    return found


def main() -> None:
    """A line for each split, appended to a file; mean, deviation and worst over seeds of all that the file holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(3)))
    parser.add_argument("--by", choices=["image", "look"], nargs="+", default=["image", "look"])
    parser.add_argument("--at", type=float, nargs="+", default=[0.5, 0.25], metavar="MPP", help="um per px to run at")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="an option of the method")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/points.jsonl"))
    parser.add_argument("--work", type=Path, help="keep trainings here, and go on with those that were ended")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = asked.work or Path(folder)
        for by in asked.by:
            for seed in asked.seeds:
                found = one(asked.folder, by, seed, asked.set, asked.at, work / f"{by}-{seed}")
                with asked.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"by": by, "seed": seed, "options": asked.set, **found}) + "\n")
                print(
                    f"by {by} {seed}: " + "  ".join(f"{name} {value:.3f}" for name, value in found.items()), flush=True
                )
    summarise([json.loads(line) for line in asked.out.read_text("utf-8").splitlines()], asked.set)


def summarise(rows: list[dict[str, object]], options: list[str]) -> None:
    """Print mean, deviation and worst of every figure with these options."""
    for by in ("image", "look"):
        same = [row for row in rows if row["by"] == by and row["options"] == options]
        for name in dict.fromkeys(key for row in same for key in row if key not in ("by", "seed", "options")):
            values = [float(str(row[name])) for row in same if name in row]
            spread = stdev(values) if len(values) > 1 else 0.0
            print(f"by {by:6} {name:28} {fmean(values):.3f} ± {spread:.3f}  worst {min(values):.3f}  n {len(values)}")


if __name__ == "__main__":
    main()

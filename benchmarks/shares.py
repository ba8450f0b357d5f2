"""Nuclei from a share of their points, on real pixels: `python benchmarks/shares.py FOLDER`.

FOLDER holds images with instance labels beside them (`NAME_labels.png`). For every seed, a split by looks as in
points.py, and every share of the points of training and validation images, on the test images, at 0.5 um per px:

- the detector: everything without a point taken for background (`naive`), ignored (`extended`), and each round after
  it; precision, recall and F1 of points within 3 um;
- the segmenter, from the points of the last round: by `voronoi`, `cluster`, `both`, and `both` with the CRF loss after
  it; and, once for a seed, from full masks; F1 of objects, AJI, PQ and Dice.

A line of a file for each; what the file has is not made again, so other options want another file. Full masks are
learned from ImageNet's weights, points from the detector's. With `--draw` the table and the figure of all that is there
are made, and nothing is trained.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch
from points import arranged, split
from safetensors.torch import load_file

from wsikit.config import load_config
from wsikit.methods.points.background import LARGEST, LEAST
from wsikit.methods.points.background import detect as blobs
from wsikit.methods.points.config import Config
from wsikit.methods.points.data import read_points
from wsikit.methods.points.detect import best_threshold, detect
from wsikit.methods.points.evaluate import RADIUS_UM
from wsikit.methods.points.model import CENTRE, build_model
from wsikit.methods.points.train import Training
from wsikit.metrics import Ratio, match_points

OPTIONS = {
    "at_mpp": 0.5,
    "seen_mpp": [0.4, 0.6],
    "crop": 96,
    **{
        f"{stage}.{name}": value
        for stage, epochs in {
            "detector.recipe": 5,
            "detector.again": 3,
            "segmenter.recipe": 5,
            "segmenter.crf_recipe": 3,
        }.items()
        for name, value in {"epochs": epochs, "batch_size": 4, "threads": 1}.items()
    },
}
"""Of every training, for what can be afforded on a CPU; each epoch sees four times the pixels that images have at this
resolution. On one thread, so that two of these can run beside each other."""
CRF = 0.01
"""Weight of the CRF loss."""
LOWEST = 0.7
"""F1 that the picture begins at: trainings that found next to nothing would flatten the rest."""
SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)
DETECTORS = ("naive", "extended", "round 1", "round 2", "round 3")
SEGMENTERS = ("voronoi", "cluster", "both", "both + crf", "masks")


def training(data: Path, out: Path, seed: int, **options: Any) -> Training:
    """With a network that has learned nothing but ImageNet."""
    told = [f"{name}={json.dumps(value)}" for name, value in {**OPTIONS, **options}.items()]
    config = load_config(Config, None, [*told, f"data={data}", f"seed={seed}"])
    torch.manual_seed(seed)
    return Training(config, out, build_model(config), None)


def points_of(made: Training, stage: str) -> dict[str, float]:
    """Precision, recall and F1 of the points that the model finds on test images, pooled.

    The threshold is chosen by the stage's maps of validation images.
    """
    threshold, mpp = best_threshold(made, stage, made.images("validation")), made.config.at_mpp
    square = (made.config.radius_um / mpp) ** 2
    found: dict[str, Ratio] = {}
    for image in made.images("test"):
        heat = made.maps(image)[CENTRE]
        said = blobs(heat, threshold=threshold, least_px=LEAST * square, largest_px=LARGEST * square)
        matched = match_points(image.points * made.config.mpp, said.points * mpp, radius=RADIUS_UM)
        for name in ("precision", "recall", "f1"):
            found[name] = found[name] + getattr(matched, name) if name in found else getattr(matched, name)
    return {name: ratio.value for name, ratio in found.items()}


def restored(made: Training, path: Path) -> Training:
    """With the weights of a stage."""
    made.model.load_state_dict(load_file(path))
    return made


def of_share(data: Path, work: Path, seed: int, share: float) -> Iterator[tuple[str, Mapping[str, float]]]:
    """(what was learned from, how good it is) of one seed and share of points."""
    naive = training(data, work / "naive", seed, ratio=share, **{"detector.target": "naive"})
    (fitted,) = detect(naive).fitted.values()
    yield "naive", points_of(restored(naive, fitted.path), "detector-0")
    rounds = training(data, work / "rounds", seed, ratio=share)
    found = detect(rounds)
    # rounds that change nothing end
    for name, (stage, fitted) in zip(DETECTORS[1:], found.fitted.items(), strict=False):
        yield name, points_of(restored(rounds, fitted.path), stage)
    last = fitted.path
    for labels in SEGMENTERS[:3]:
        crf = {"segmenter.crf": CRF} if labels == "both" else {}
        made = restored(training(data, work / labels, seed, ratio=share, **{"segmenter.labels": labels}, **crf), last)
        for stage, fitted in made.segment(found.points).items():
            name = "both + crf" if stage == "crf" else labels
            yield name, restored(made, fitted.path).scored(made.images("test"))


def of_masks(data: Path, work: Path, seed: int) -> dict[str, float]:
    """How good full masks make it."""
    made = training(data, work, seed, **{"segmenter.labels": "masks"})
    (fitted,) = made.segment({}).values()
    return restored(made, fitted.path).scored(made.images("test"))


def measure(folder: Path, out: Path, work: Path, seeds: list[int], shares: list[float]) -> None:
    """Append a line for every seed, share and way to learn that the file lacks."""
    images = read_points(folder)
    known = {(row["seed"], row["share"]) for row in rows_of(out)}
    for share in [None, *shares]:
        for seed in seeds:
            if (seed, share) in known:
                continue
            data = arranged(folder, images, split(images, "look", seed), work / f"data-{seed}")
            place = work / f"{seed}-{share}"
            made = (
                [("masks", of_masks(data, place, seed))] if share is None else list(of_share(data, place, seed, share))
            )
            with out.open("a", encoding="utf-8") as file:
                for name, scores in made:
                    rounded = {metric: round(float(value), 4) for metric, value in scores.items()}
                    file.write(json.dumps({"seed": seed, "share": share, "learned": name, **rounded}) + "\n")
            print(seed, share, {name: dict(scores) for name, scores in made}, flush=True)


def rows_of(out: Path) -> list[dict[str, Any]]:
    """What is measured."""
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()] if out.is_file() else []


def table(rows: list[dict[str, Any]], names: tuple[str, ...], metrics: tuple[str, ...]) -> str:
    """Markdown: means over seeds, and their deviation."""
    lines = [f"| share | learned from | {' | '.join(metrics)} | seeds |", "|---" * (len(metrics) + 3) + "|"]
    for share in [*SHARES, None]:
        for name in names:
            same = [row for row in rows if (row["share"], row["learned"]) == (share, name)]
            if same:
                told = [spread([row[metric] for row in same]) for metric in metrics]
                share_text = "masks" if share is None else f"{share:.0%}"
                lines.append(f"| {share_text} | {name} | {' | '.join(told)} | {len(same)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Mean and deviation."""
    return f"{fmean(values):.3f} ± {stdev(values) if len(values) > 1 else 0:.3f}"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """F1 of points by detector, and AJI by segmenter, over shares: means, and a dot for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, names, metric in ((axes[0], DETECTORS, "f1"), (axes[1], SEGMENTERS[:4], "aji")):
        for name in names:
            by = {
                share: [row[metric] for row in rows if (row["share"], row["learned"]) == (share, name)]
                for share in SHARES
            }
            shares = [100 * share for share, values in by.items() if values]
            (line,) = axis.plot(shares, [fmean(values) for values in by.values() if values], marker="o", label=name)
            for share, values in by.items():
                axis.plot(np.full(len(values), 100 * share), values, ".", color=line.get_color(), alpha=0.4)
        axis.set(xscale="log", xlabel="% of points", xticks=[100 * share for share in SHARES])
        axis.set_xticklabels([f"{100 * share:.0f}" for share in SHARES])
        axis.minorticks_off()
    masks = [row["aji"] for row in rows if row["learned"] == "masks"]
    if masks:
        axes[1].axhline(fmean(masks), color="grey", linestyle="--", label="full masks")
    axes[0].set(ylabel="F1 of points, 3 um", ylim=(LOWEST, None))
    axes[1].set(ylabel="AJI")
    for axis in axes:
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure what is missing, or draw what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(3)))
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/shares.jsonl"))
    parser.add_argument("--work", type=Path, help="keep trainings here, and go on with those that were ended")
    parser.add_argument("--draw", type=Path, metavar="PNG")
    asked = parser.parse_args()
    if not asked.draw:
        if asked.folder is None:
            parser.error("give the folder of images, or --draw")
        with tempfile.TemporaryDirectory() as folder:
            measure(asked.folder, asked.out, asked.work or Path(folder), asked.seeds, asked.shares)
    rows = rows_of(asked.out)
    print(table(rows, DETECTORS, ("precision", "recall", "f1")))
    print(table(rows, SEGMENTERS, ("object_f1", "aji", "pq", "dice")))
    if asked.draw:
        draw(rows, asked.draw)


if __name__ == "__main__":
    main()

"""What online noise suppression is worth where masks are wrong as activation maps are: `python benchmarks/noise.py`.

The study of tests/methods/planted_noise.py over six seeds, paired: a table, and docs/noise.png.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
from tests.methods import planted_noise as noise  # noqa: E402

SHARES, SEEDS = (0.0, 0.25, 0.30), range(200, 206)
"""Of wrong pixels; seeds that nothing was chosen on."""
NAMES = {"ce": "cross entropy", "oeem": "OEEM", "onss": "online noise suppression"}


def main() -> None:
    """Print the table and draw the figure."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    torch.set_num_threads(1)
    rows = {share: noise.compared(share, SEEDS) for share in SHARES}
    for share, by in rows.items():
        means = {mode: one.mean(axis=1) for mode, one in by.items()}
        gain = means["onss"] - means["ce"]
        rarest = (by["onss"] - by["ce"])[:, noise.RARE].mean()
        told = "  ".join(f"{mode} {one.mean():.3f}" for mode, one in means.items())
        print(f"{share:.2f}  {told}  onss - ce {gain.mean():+.3f} worst {gain.min():+.3f} rarest {rarest:+.3f}")
    plt.figure(figsize=(5, 3.5), layout="constrained")
    for mode in noise.MODES:
        seeds = np.array([rows[share][mode].mean(axis=1) for share in SHARES])
        (line,) = plt.plot(SHARES, seeds.mean(axis=1), marker="o", label=NAMES[mode])
        plt.plot(SHARES, seeds, ".", color=line.get_color(), alpha=0.4)
    plt.xlabel("share of wrong pixels in patches of several classes")
    plt.ylabel("mIoU on clean patches")
    plt.legend()
    plt.savefig(ROOT / "docs" / "noise.png", dpi=120)


if __name__ == "__main__":
    main()

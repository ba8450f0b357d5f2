"""How fast wsikit reads and writes patches, beside its peers: `python benchmarks/bench.py` (`make bench`).

1. Every system runs in a process of its own, started anew for each bench, in its own environment; all processes of a
   run are held to the same cores (the first two) and told the same number of threads.
2. Before any time counts, each system reads everything once and hashes every patch with its place. Equal hashes are
   equal pixels. Where a system's pixels differ from OpenSlide's, patches are compared, and it is left out if they
   differ by more than its row says.
3. Systems take turns: A B C A B C, at least five rounds. The page cache is warm: each file is read whole before.
4. A bench begins when the rest of the machine is idle, and waits for that; a turn during which others worked is done
   again. What could not be had quietly is marked.

Results go to benchmarks/results/*.json; the table of ratios is printed. The exit status is 1 if a bar does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benches import BENCHES, Sides, bars
from machine import described, pinned
from page import table
from turns import Turns

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
FULL = Sides(small=8192, read=16384, large=32768)
QUICK = Sides(small=4096, read=8192, large=8192)
ROUNDS = 5


def main() -> int:
    """Run, save, print; 1 if a bar does not hold."""
    options = _options()
    if options.again:
        result = json.loads(options.again.read_text())
    else:
        result = run(options)
        print(f"\n{options.out}", file=sys.stderr)
    print(table(result))
    return 0 if all(bar["passed"] for bar in result["bars"]) else 1


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All benches, as what goes into the JSON."""
    cores = pinned(options.cores)
    sides = Sides(*options.sides) if options.sides else QUICK if options.quick else FULL
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    result: dict[str, Any] = {
        "machine": described(cores),
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "benchmarks/bench.py", *sys.argv[1:]]),
        "cache": "warm: every file is read whole before its bench",
        "load_gate": "off" if options.any_load else "on",
        "sides": {"small": sides.small, "read": sides.read, "large": sides.large},
        "rounds": rounds,
        "benches": {},
        "bars": [],
    }
    turns = Turns(cores=len(cores), rounds=rounds, gate=not options.any_load, scratch=options.scratch)
    for bench in BENCHES(sides):
        if options.only and not any(bench.key.startswith(key) for key in options.only):
            continue
        print(f"{bench.key}: {bench.title}", file=sys.stderr, flush=True)
        result["benches"][bench.key] = turns.take(bench)
        result["bars"] = [bar.told() for bar in bars(result["benches"])]
        # after each bench: a run that is stopped keeps what it has
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1))
    return result


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="slides of at most 8192 px, one round: a look, no result")
    parser.add_argument("--sides", type=int, nargs=3, metavar=("SMALL", "READ", "LARGE"), help="of the slides, px")
    parser.add_argument("--rounds", type=int, help=f"turns of each system; by default {ROUNDS}, with --quick 1")
    parser.add_argument("--only", nargs="+", metavar="BENCH", help="benches whose names begin so")
    parser.add_argument("--cores", type=int, default=2, help="cores that everything is held to")
    parser.add_argument("--any-load", action="store_true", help="do not wait for an idle machine (recorded)")
    parser.add_argument("--scratch", type=Path, help="where jobs write; by default the system's temporary folder")
    parser.add_argument("--again", type=Path, metavar="JSON", help="run nothing, show the results of an earlier run")
    name = f"bench-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    parser.add_argument("--out", type=Path, default=RESULTS / name, help="the JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

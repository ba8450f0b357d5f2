"""Results as text: `python benchmarks/page.py RESULT.json` writes docs/benchmarks.md, .json and the two plots.

The page is made of nothing but the JSON beside it, which is the run's without what only the run needs.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
DOCS = FOLDER.parent / "docs"
PLOTS = {
    "benchmarks-patches.png": "Throughput against patch offset and overlap",
    "benchmarks-growth.png": "Time and memory against slide size",
}
INTRO = """# Benchmarks

Written by `make bench-page` from [benchmarks.json](benchmarks.json), which `make bench` measures; what is below is of
this one machine and this one run, and ratios travel better than seconds.

- **Fair**: all systems read the same files on the same cores with the same number of threads, each in the way that its
  documentation shows to be the fastest. They take turns; times are medians of the turns, ± half of their range.
- **Same pixels**: before any time counts, every patch of every system is hashed. "equal" is equal to OpenSlide's, bit
  for bit; other pixels are shown with their largest and mean difference.
- **Peak memory** is of the process, its start and imports included, since a process that read nothing has 40 MB too.
- The page cache is warm. Imports are not timed, nor is the first use of each library.
- Ratios are of seconds per patch, taken turn by turn: above 1, wsikit is faster.
"""
READING = """`make bench-env bench-inputs bench` measures anew (the second environment takes 6 GB), `make bench-page`
writes this page from the newest result."""


def table(result: dict[str, Any]) -> str:
    """What was to be reached, and what was measured, in Markdown."""
    return "\n".join([*_bars(result["bars"]), "", *_benches(result["benches"])])


def page(result: dict[str, Any]) -> str:
    """The whole page."""
    plots = [line for name, title in PLOTS.items() for line in (f"![{title}]({name})", "")]
    parts = [INTRO, *_machine(result), "", "## What it must reach", "", *_bars(result["bars"]), "", *plots]
    return "\n".join([*parts, *_benches(result["benches"]), "", "## Versions", "", *_versions(result), "", READING, ""])


def _machine(result: dict[str, Any]) -> Iterator[str]:
    machine, sides = result["machine"], result["sides"]
    cores = f"{machine['cores_used']} of {machine['cores']} cores"
    yield f"| machine | {machine['cpu']}, {cores}, {machine['memory_gb']} GB |"
    yield "|---|---|"
    yield f"| system | {machine['system']}, Python {machine['python']} |"
    yield f"| command | `{result['command']}`, {result['when']} |"
    yield f"| turns | {result['rounds']} of each system, fewer where a table says so |"
    yield f"| slides | {sides['small']}, {sides['read']} and {sides['large']} px square; cache {result['cache']} |"
    loads = [bench["background"] for bench in result["benches"].values() if bench["background"] is not None]
    disturbed = sum(s.get("disturbed", 0) for b in result["benches"].values() for s in b["systems"].values())
    gate = f"at most {max(loads):.2f} cores before a bench" if loads else "not looked at"
    yield f"| others' load | {gate}; {disturbed} turns disturbed |"


def _bars(bars: list[dict[str, Any]]) -> Iterator[str]:
    yield "| bench | figure | bar | aim | |"
    yield "|---|---|---|---|---|"
    for bar in bars:
        figure = "not measured" if bar["figure"] is None else f"{bar['figure']:.2f}"
        sign = "<=" if bar["at_most"] else ">="
        need, aim = ("" if bar[name] is None else f"{sign} {bar[name]:g}" for name in ("need", "aim"))
        verdict = "" if bar["need"] is None else "holds" if bar["passed"] else "**does not hold**"
        yield f"| {bar['bench']} | {figure} {bar['what']} | {need} | {aim} | {verdict} |"


def _benches(benches: dict[str, Any]) -> Iterator[str]:
    for key, bench in benches.items():
        yield from (f"## {key}: {bench['title']}", "", f"`{bench['input']}`", "")
        yield "| system | wall, s | CPU, s | MP/s | peak, MB | s per patch, ours = 1 | |"
        yield "|---|---|---|---|---|---|---|"
        ours = bench["systems"].get(bench["ours"], {})
        yield from (_row(name, system, ours) for name, system in bench["systems"].items())
        yield ""


def _row(name: str, system: dict[str, Any], ours: dict[str, Any]) -> str:
    if "wall" not in system:
        return f"| {name} | | | | | | {system.get('error', 'not run')} |"
    ratio = ""
    if "wall" in ours:
        ratio = f"{system['wall'] / system['patches'] / (ours['wall'] / ours['patches']):.2f}"
    return (
        f"| {name} | {system['wall']:.3f} ± {system['spread'] * system['wall'] / 2:.3f} | {system['cpu']:.2f} "
        f"| {system['megapixels'] / system['wall']:.0f} | {system['peak_mb']:.0f} | {ratio} | {_remark(system)} |"
    )


def _remark(system: dict[str, Any]) -> str:
    told = []
    if pixels := system.get("pixels"):
        told.append("equal" if pixels["equal"] else f"pixels differ by up to {pixels['max']}, mean {pixels['mean']}")
    if "files" in system:
        told.append(f"{system['patches']} patches, {system['files']} files, {system['bytes'] / 2**20:.0f} MB")
    if system.get("disturbed"):
        told.append(f"{system['disturbed']} turns disturbed")
    return "; ".join(told)


def _versions(result: dict[str, Any]) -> Iterator[str]:
    yield "| system | versions |"
    yield "|---|---|"
    seen = {"wsikit": result["machine"]["versions"]}
    for bench in result["benches"].values():
        for name, system in bench["systems"].items():
            if system.get("call", "").split(":")[0] != "own" and system.get("versions"):
                seen.setdefault(name, system["versions"])
    for name, versions in seen.items():
        yield f"| {name} | {', '.join(f'{package} {version}' for package, version in versions.items())} |"


def kept(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what only the run needs."""
    slim: dict[str, Any] = json.loads(json.dumps(result), parse_float=lambda text: float(f"{float(text):.5g}"))
    for bench in slim["benches"].values():
        for system in bench["systems"].values():
            for name in ("hash", "total"):
                system.pop(name, None)
            if "turns" in system:
                system["turns"] = [{k: turn[k] for k in ("wall", "patches")} for turn in system["turns"]]
    return slim


def main() -> None:
    """Write page, JSON and plots."""
    newest = sorted((FOLDER / "results").glob("*.json"))[-1:]
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else newest[0] if newest else None
    if source is None:
        raise SystemExit("there is no result: make bench")
    result = kept(json.loads(source.read_text()))
    data = DOCS / "benchmarks.json"
    data.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (DOCS / "benchmarks.md").write_text(page(result), encoding="utf-8")
    python = FOLDER / "envs" / "readers" / "bin" / "python"
    subprocess.run([python, FOLDER / "plots.py", data, *(DOCS / name for name in PLOTS)], check=True)


if __name__ == "__main__":
    main()

"""The shape of the project: who may import what, what is packaged, how fast the doors open."""

from __future__ import annotations

import ast
import math
import re
import resource
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

LAYERS = (
    {"errors", "atomic", "buffers", "geometry", "registry", "config"},
    {"predictions", "features", "outlines"},
    {"slides", "stain"},
    {
        "tissue",
        "tiling",
        "streaming",
        "glass",
        "bags",
        "patches",
        "samples",
        "annotations",
        "limits",
        "artefacts",
        "quality",
    },
    {"predictors", "stitching", "sinks", "nn", "training", "metrics"},
    {"methods"},
    {"pipeline"},
)
"""First names below ``wsikit``, lowest first; one may import its own layer and those before it."""
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
CEILING = {"nn": "tiling", "training": "tiling", "metrics": "tiling"}
"""Those that may import only up to the layer of another, and each other."""

FILES = sorted((ROOT / "wsikit").rglob("*.py")) + sorted((ROOT / "cli").rglob("*.py"))
LIBRARY = [path for path in FILES if path.is_relative_to(ROOT / "wsikit") and path != ROOT / "wsikit" / "__init__.py"]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def part_of(module: str) -> str:
    """The first name below wsikit."""
    return module.split(".")[1]


def modules(tree: ast.AST, package: str) -> Iterator[str]:
    """Absolute names of all that is imported anywhere in the tree, functions included.

    ``from wsikit import x`` gives ``wsikit.x``. What stands under ``if TYPE_CHECKING`` is not imported.
    """
    for node in runtime_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names) if origin == "wsikit" else [origin]


def runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")):
            yield from runtime_nodes(child)


def imported(path: Path) -> set[str]:
    package = ".".join(path.relative_to(ROOT).parent.parts)
    return set(modules(ast.parse(path.read_text(encoding="utf-8")), package.replace("cli", "wsikit.cli")))


def allowed(importer: str, target: str) -> bool:
    ceiling = RANK[CEILING.get(importer, importer)]
    return RANK[target] <= ceiling or (importer in CEILING and target in CEILING)


@pytest.mark.parametrize("path", LIBRARY, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    own = path.relative_to(ROOT / "wsikit").parts[0].removesuffix(".py")
    assert own in RANK, f"{own} has no layer: add it to LAYERS and to docs/design.md"
    targets = {part_of(module) for module in imported(path) if module.startswith("wsikit.")}
    upward = {target for target in targets if target not in RANK or not allowed(own, target)}
    assert not upward, f"{name_of(path)} ({own}) imports {sorted(upward)}, which lie above it"


def test_upward_imports_are_seen() -> None:
    source = (
        "if TYPE_CHECKING:\n    import wsikit.methods\n"
        "def f():\n    from wsikit.pipeline.run import run\n    from .. import sinks\n    from wsikit import cli"
    )
    found = set(modules(ast.parse(source), "wsikit.slides"))
    assert found == {"wsikit.pipeline.run", "wsikit.sinks", "wsikit.cli"}
    assert not allowed("slides", "pipeline")
    assert not allowed("nn", "predictors")


def test_methods_do_not_import_one_another() -> None:
    for path in (ROOT / "wsikit" / "methods").glob("*/*.py"):
        others = {m for m in imported(path) if m.startswith("wsikit.methods.")}
        assert all(m.split(".")[2] == path.parent.name for m in others), path


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_the_neural_parts_import_torch(path: Path) -> None:
    if path.is_relative_to(ROOT / "wsikit"):
        inside = path.relative_to(ROOT / "wsikit")
        if inside.parts[0] in {"nn", "training", "methods"} or inside.as_posix() == "patches/torch.py":
            return
    found = {m.split(".")[0] for m in imported(path)} & {"torch", "torchvision", "timm", "segmentation_models_pytorch"}
    assert not found


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_only_readers_import_slide_libraries(path: Path) -> None:
    if path.parent != ROOT / "wsikit" / "slides":
        assert not {m.split(".")[0] for m in imported(path)} & {"openslide", "tiffslide", "tifffile"}


@pytest.mark.parametrize("path", [p for p in FILES if p.is_relative_to(ROOT / "wsikit")], ids=name_of)
def test_the_library_does_not_print(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    assert not [c.lineno for c in calls if isinstance(c.func, ast.Name) and c.func.id == "print"]


def test_every_package_is_packaged() -> None:
    folders = {p.parent.relative_to(ROOT).as_posix().replace("/", ".") for p in (ROOT / "wsikit").rglob("__init__.py")}
    folders |= {f"wsikit.{top}" for top in ("cli", "configs") if (ROOT / top / "__init__.py").exists()}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders


def test_constraints_hold_versions_only() -> None:
    files = sorted((ROOT / "constraints").glob("py*.txt"))
    assert [f.name for f in files] == ["py311.txt", "py312.txt", "py313.txt"]
    for file in files:
        lines = file.read_text(encoding="utf-8").splitlines()
        odd = [line for line in lines if not re.fullmatch(r"[A-Za-z0-9_.-]+==[A-Za-z0-9_.!+-]+", line)]
        assert lines, file
        assert not odd, f"{file.name}: {odd}"


def test_a_plain_install_is_torch_free() -> None:
    needed = {re.split(r"[<>=!~\[; ]", line)[0] for line in PROJECT["project"]["dependencies"]}
    assert not needed & {"torch", "torchvision", "timm", "segmentation-models-pytorch", "torchmetrics", "torchstain"}


def seconds(*command: str) -> float:
    """Processor seconds, the best of three: the clock on the wall would also measure what else runs here."""
    best = math.inf
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def test_import_is_light() -> None:
    heavy = "torch", "zarr", "distributed", "tiffslide", "openslide", "skimage", "scipy"
    code = f"import sys, wsikit; print(*[m for m in {heavy!r} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert answer.stdout.split() == []


def test_import_is_fast() -> None:
    assert seconds(sys.executable, "-c", "import wsikit") < 0.5


def test_help_is_fast() -> None:
    # half of it is rich, which draws the page
    assert seconds(str(Path(sys.executable).with_name("wsikit")), "--help") < 0.8


@pytest.mark.slow
def test_the_wheel_holds_cli_and_configs(tmp_path: Path) -> None:
    import shutil
    import zipfile

    copy = tmp_path / "source"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "samples", "demo-out")
    shutil.copytree(ROOT, copy, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(copy)]
    subprocess.run(command, check=True)
    with zipfile.ZipFile(next(tmp_path.glob("wsikit-*.whl"))) as wheel:
        names = set(wheel.namelist())
        metadata = wheel.read(next(n for n in names if n.endswith(".dist-info/METADATA"))).decode()
    wanted = {f"wsikit/cli/{p.name}" for p in (ROOT / "cli").glob("*.py")}
    wanted |= {f"wsikit/configs/{p.name}" for p in (ROOT / "configs").glob("*.*")}
    wanted |= {
        name_of(p) for p in (ROOT / "wsikit").rglob("*") if p.suffix in {".py", ".html", ".css", ".js", ".typed"}
    }
    assert not wanted - names
    assert not [n for n in names if n.startswith(("cli/", "configs/", "tests/"))]
    free = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert free
    assert not [line for line in free if "torch" in line]

"""The floors: `utils` < `models` < `training` < commands and `benchmarks`; see docs/architecture.md."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = (
    "utils",
    "models",
    "training",
    "commands",
)  # from the ground up; "commands" are the files of the root
TOP = ("benchmarks", "curation")  # rooms beside them
# heavy or optional packages: imported where they are used, so that start-up stays short
LAZY = {
    "torchvision", "pandas", "matplotlib", "thop", "sklearn", "PIL", "tensorboard", "onnxruntime", "mss",
    "faster_coco_eval", "onnx", "openvino", "nncf", "ncnn", "pnnx", "executorch", "coremltools",
    "litert_torch", "ai_edge_litert", "defusedxml", "imagehash", "webdataset", "braceexpand", "fsspec",
    "aiohttp",
    "optuna",
    "sqlalchemy", "psycopg2", "psycopg", "scipy",
    "mlflow", "wandb", "comet_ml", "clearml",
    "yt_dlp", "shtab",
}  # fmt: skip

# files at YOLOv5's addresses, which pass on what `utils.adapters` and `models.adapters` hold
FACADES = {
    "utils.general", "utils.torch_utils", "utils.dataloaders", "utils.datasets", "utils.augmentations",
    "models.experimental",
}  # fmt: skip


def modules() -> dict[str, ast.Module]:
    """Every module of the product by its dotted name; a package has that of its folder."""
    files = [*ROOT.glob("*.py"), *(file for room in FLOORS[:-1] for file in (ROOT / room).rglob("*.py"))]
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): ast.parse(
            file.read_text(encoding="utf-8")
        )
        for file in (*files, *(file for room in TOP for file in (ROOT / room).rglob("*.py")))
    }


MODULES = modules()


def imports(*trees: ast.AST) -> set[str]:
    """Dotted names of all that is imported in some pieces of code, `from a import b` as `a` and `a.b`."""
    found: set[str] = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def floor(module: str) -> int:
    room = module.split(".")[0]
    return FLOORS.index(room) if room in FLOORS else len(FLOORS) - 1


@pytest.mark.parametrize("name", MODULES)
def test_a_floor_imports_only_those_below_it(name: str) -> None:
    used = imports(MODULES[name]) & set(MODULES)
    assert [other for other in used if floor(other) > floor(name)] == []


def test_there_is_no_circle() -> None:
    graph = {name: imports(tree) & set(MODULES) - {name} for name, tree in MODULES.items()}
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError and names the circle


def test_the_ground_floor_is_no_heap() -> None:
    alone = [name for name in set(MODULES) - FACADES if name.count(".") == 1 and name.startswith("utils.")]
    assert len([name for name in alone if not (ROOT / name.replace(".", "/")).is_dir()]) <= 20


@pytest.mark.parametrize("name", sorted(FACADES))
def test_a_facade_holds_no_logic(name: str) -> None:
    _, *rest = MODULES[name].body  # after its docstring
    assert all(isinstance(node, ast.Import | ast.ImportFrom) for node in rest[:-1])
    assert isinstance(rest[-1], ast.Assign) and ast.unparse(rest[-1].targets[0]) == "__all__"


def test_only_scripts_of_others_use_facades_and_adapters() -> None:
    adapters = {name for name in MODULES if name.startswith(("utils.adapters", "models.adapters"))}
    allowed = FACADES | adapters | {"models.common", "utils.plots"}
    for name in set(MODULES) - allowed:
        assert not imports(MODULES[name]) & (FACADES | adapters - {"utils.adapters.flags"}), name


@pytest.mark.parametrize("name", MODULES)
def test_functions_import_third_party_packages_only(name: str) -> None:
    functions = [n for n in ast.walk(MODULES[name]) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    assert not {module for module in imports(*functions) if module.split(".")[0] in (*FLOORS, *MODULES)}


@pytest.mark.parametrize("name", MODULES)
def test_start_up_imports_nothing_heavy(name: str) -> None:
    # an `if TYPE_CHECKING:` never runs
    body = [
        node for node in MODULES[name].body if not isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.If))
    ]
    assert not {module for module in imports(*body) if module.split(".")[0] in LAZY}


@pytest.mark.parametrize("name", [name for name in MODULES if (ROOT / name.replace(".", "/")).is_dir()])
def test_every_room_says_what_is_in_it(name: str) -> None:
    lines = (ast.get_docstring(MODULES[name]) or "").splitlines()
    assert 2 <= len([line for line in lines if line.strip()]) <= 8, (
        "what lives here, what it may import, where to begin"
    )

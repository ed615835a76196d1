"""Who may import whom: commands stand on the engine, the engine on models, models on pure code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = {"train", "val", "detect", "export", "hubconf", "benchmark"}
ENGINE = {
    "utils.config", "utils.engine", "utils.state", "utils.setup", "utils.reporting",
    "utils.evolve", "utils.run",
}  # fmt: skip
PURE = {
    "utils.boxes", "utils.nms", "utils.metrics", "utils.box_loss", "utils.loss", "utils.anchors",
    "utils.hyperparameters",
}  # fmt: skip
# heavy or optional packages: imported where they are used, so that start-up stays short
LAZY = {
    "torchvision", "pandas", "matplotlib", "thop", "sklearn", "PIL", "tensorboard", "onnxruntime", "mss",
    "faster_coco_eval", "onnx", "openvino", "nncf", "ncnn", "pnnx", "executorch", "coremltools",
    "litert_torch", "ai_edge_litert",
}  # fmt: skip


def modules() -> dict[str, Path]:
    files = [*ROOT.glob("*.py"), *(ROOT / "models").rglob("*.py"), *(ROOT / "utils").rglob("*.py")]
    return {".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in files}


def imports(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_down(name: str) -> None:
    used = imports(ast.parse(modules()[name].read_text(encoding="utf-8")))
    if name not in COMMANDS:
        assert not used & COMMANDS, "only commands may import commands"
    of_models = {module for module in used if module.startswith("models.")}
    if name.startswith(("models", "utils.data")) or name in PURE:
        assert not used & ENGINE
    if name.startswith("utils.data") or name in PURE:
        assert not of_models
    if name.startswith(("models.blocks", "models.registry")):
        assert all(module.startswith(("models.blocks", "models.registry")) for module in of_models)


@pytest.mark.parametrize("name", sorted(modules()))
def test_functions_import_third_party_packages_only(name: str) -> None:
    tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inside = set().union(*(imports(function) for function in functions)) if functions else set()
    assert not {module for module in inside if module.split(".")[0] in {"models", "utils"} | COMMANDS}


@pytest.mark.parametrize("name", sorted(modules()))
def test_start_up_imports_nothing_heavy(name: str) -> None:
    tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
    # an `if TYPE_CHECKING:` never runs
    body = [node for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.If))]
    top = imports(ast.Module(body=body, type_ignores=[]))
    classes = set().union(*(imports(n) for n in tree.body if isinstance(n, ast.ClassDef)), set())
    assert not {module for module in top - classes if module.split(".")[0] in LAZY}


def test_there_is_no_cycle() -> None:
    graph = {
        name: imports(ast.parse(path.read_text(encoding="utf-8"))) & set(modules())
        for name, path in modules().items()
    }
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for used in graph[name] - {name}:
                visit(used, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())

"""The layers of ARCHITECTURE.md hold: no upward import, no cycle, and running a model needs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import prunetime

ROOT = Path(prunetime.__file__).parent
WORDS = {
    "errors",
    "arch",
    "config",
    "embedding",
    "prompts",
    "task",
    "mask",
    "plan",
    "blocks",
    "budget",
    "artifact",
    "machine",
    "tag_scheme",
    "tensors",
    "positions",
}
MAKING = {"models", "training", "pruning", "search", "export", "rivals", "tasks"}
TORCH_FREE = {
    "search.space",
    "pruning.methods",
    "tasks.table",
    "tasks.catalogue",
    "tasks.answers",
    "tasks.benchmarks",
    "tasks.synthetic",
    "tasks.synthetic_questions",
    "tasks.synthetic_entities",
    "tasks.tags",
    "tasks.conll",
    "tasks.labels",
    "tasks.class_names",
    "tasks.hub",
    "tasks.formulas",
    "tasks.sources",
    "tasks.metrics",
}


def layer(module: str) -> int:
    """Height of a module (name without `prunetime.`): it may import what is lower, and its siblings."""
    top = module.split(".")[0]
    if top in WORDS:
        return 0
    if top == "runtime":
        return 1
    if module in TORCH_FREE:
        return 2
    if top in MAKING | {"report", "serve"}:
        return 3
    return 4  # pipeline, cli, and the package itself


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(source: str) -> set[str]:
    """Modules of prunetime that `source` imports anywhere, names without `prunetime.`."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "prunetime" else [f"prunetime.{a.name}" for a in node.names]
            names += [f"{node.module}.{a.name}" for a in node.names if (ROOT / to_path(node.module, a.name)).exists()]
        found |= {name.removeprefix("prunetime.") for name in names if name.startswith("prunetime.")}
    return found - {"__version__"}


def to_path(module: str, name: str) -> str:
    return "/".join([*module.split(".")[1:], f"{name}.py"])


def graph() -> dict[str, set[str]]:
    return {module_name(path): imports_of(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}


def upward(edges: dict[str, set[str]]) -> list[str]:
    wrong = []
    for module, imported in edges.items():
        for name in imported:
            beside = (
                layer(name) == 3
                and layer(module) == 3
                and {module.split(".")[0], name.split(".")[0]} & {"report", "serve"}
            )
            across = beside and module.split(".")[0] != name.split(".")[0]
            if module and name != "_engine" and (layer(name) > layer(module) or across):
                wrong.append(f"{module} imports {name}")
    return wrong


def cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    found, done = [], set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done:
            for name in edges.get(module, ()):
                visit(name, [*path, module])
            done.add(module)

    for module in edges:
        visit(module, [])
    return found


def test_no_module_imports_a_higher_layer() -> None:
    assert upward(graph()) == []


def test_there_is_no_import_cycle() -> None:
    packages = {name for name in graph() if (ROOT / name.replace(".", "/")).is_dir()}
    assert [cycle for cycle in cycles(graph()) if not packages & set(cycle)] == []


def test_a_planted_upward_import_and_a_planted_cycle_are_found() -> None:
    assert upward({"inference.engine": {"models.encoder"}}) == ["inference.engine imports models.encoder"]
    assert upward({"report.render": {"search.archive"}}) == ["report.render imports search.archive"]
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == [["a", "b", "c", "a"]]
    assert imports_of("def f():\n    from prunetime.runtime import engine") == {"runtime", "inference.engine"}


def test_running_a_model_loads_no_torch() -> None:
    code = (
        "import sys, prunetime, prunetime.inference.model, prunetime.latency.timing, prunetime.latency.profiling, "
        "prunetime.tasks.sources, prunetime.tasks.metrics, prunetime.cli, prunetime.serve.run; "
        "print([name for name in ('torch', 'transformers', 'sklearn', 'rich') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"

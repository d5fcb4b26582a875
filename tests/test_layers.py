"""The packages are in one order (ARCHITECTURE.md), no import makes a cycle, and running a model needs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import prunetime

ROOT = Path(prunetime.__file__).parent

PACKAGES = [
    "_version",
    "_engine",
    "errors",
    "core",
    "inference",
    "latency",
    "tasks",
    "models",
    "pruning",
    "training",
    "search",
    "export",
    "baselines",
    "settings",
    "report",
    "pipeline",
    "serve",
    "client",
    "api",
    "",
    "cli",
    "__main__",
]
"""A package, or a module beside them, imports only those before it; "" is the face, `prunetime` itself."""

OF_SERVER = [
    "errors",
    "memory",
    "settings",
    "keys",
    "certificate",
    "experiments",
    "core",
    "workers",
    "http",
    "grpc",
    "app",
    "listening",
    "supervisor",
    "run",
    "worker",
]
"""The same of `serve`: its core knows no protocol."""


def package(module: str) -> str:
    return module.split(".")[0]


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
            names = [f"{node.module}.{a.name}" for a in node.names if is_module(f"{node.module}.{a.name}")]
            names += [node.module] * (len(names) < len(node.names))
        found |= {name.removeprefix("prunetime").removeprefix(".") for name in names if package(name) == "prunetime"}
    return found


def is_module(name: str) -> bool:
    if name == "prunetime._engine":
        return True
    path = ROOT.joinpath(*name.split(".")[1:])
    return package(name) == "prunetime" and (path.is_dir() or path.with_suffix(".py").exists())


def graph() -> dict[str, set[str]]:
    return {module_name(path): imports_of(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}


def upward(edges: dict[str, set[str]], order: list[str]) -> list[str]:
    place = {name: number for number, name in enumerate(order)}
    return [
        f"{module} imports {name or 'the face'}"
        for module, imported in edges.items()
        for name in imported
        if place[package(name)] > place[package(module)]
    ]


def within(top: str, edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The modules of the package `top`, and their imports of each other, by their names in it."""
    own = {
        module: {name for name in imported if name.startswith(f"{top}.")}
        for module, imported in edges.items()
        if module.startswith(f"{top}.")
    }
    return {
        module.removeprefix(f"{top}."): {name.removeprefix(f"{top}.") for name in names}
        for module, names in own.items()
    }


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


def test_no_package_imports_a_later_one() -> None:
    assert upward(graph(), PACKAGES) == []
    assert upward(within("serve", graph()), OF_SERVER) == []


def test_there_is_no_import_cycle() -> None:
    packages = {name for name in graph() if (ROOT / name.replace(".", "/")).is_dir()}
    assert [cycle for cycle in cycles(graph()) if not packages & set(cycle)] == []


def test_the_order_has_every_package() -> None:
    assert {package(module) for module in graph()} | {"_engine"} == set(PACKAGES)
    assert {package(module) for module in within("serve", graph())} == set(OF_SERVER)


@pytest.mark.parametrize(
    ("module", "source", "says"),
    [
        ("inference.engine", "from prunetime.models import encoder", "inference.engine imports models.encoder"),
        ("inference.engine", "def f():\n    import prunetime.cli", "inference.engine imports cli"),
        ("core.task", "from prunetime.inference.engine import Engine", "core.task imports inference.engine"),
        ("pruning.masks", "from prunetime import Budget", "pruning.masks imports the face"),
        ("report.render", "import prunetime", "report.render imports the face"),
    ],
)
def test_a_planted_upward_import_is_found(module: str, source: str, says: str) -> None:
    assert upward({module: imports_of(source)}, PACKAGES) == [says]


def test_a_core_of_the_server_that_knows_http_is_found() -> None:
    planted = {"serve.core.service": imports_of("from prunetime.serve.http.routing import Request")}
    assert upward(within("serve", planted), OF_SERVER) == ["core.service imports http.routing"]


def test_a_planted_cycle_is_found() -> None:
    assert cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == [["a", "b", "c", "a"]]


def test_running_a_model_loads_no_torch() -> None:
    code = (
        "import sys, prunetime, prunetime.inference.model, prunetime.latency.timing, prunetime.latency.profiling, "
        "prunetime.tasks.sources, prunetime.tasks.metrics, prunetime.cli, prunetime.serve.run, "
        "prunetime.report.render; "
        "print([name for name in ('torch', 'transformers', 'sklearn', 'rich') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"

"""The rooms of the testing kit: which of them may know which, and how large a class may be."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import temporal_saga.testing

ROOT = Path(temporal_saga.testing.__file__).parent
NAME = temporal_saga.testing.__name__
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(ROOT.rglob("*.py"))}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([NAME, *(parts[:-1] if parts[-1] == "__init__" else parts)])


MODULES = {name_of(path): path for path in TREES}


def imports_of(path: Path) -> Iterator[str]:
    """The kit's modules that a module imports, for a type checker alone or inside of a function too."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in ast.walk(TREES[path]):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{each.name}" for each in node.names)]
        elif isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        yield from (name for name in names if name in MODULES)


def reached_from(name: str) -> set[str]:
    reached: set[str] = set()
    ways = [name]
    while ways:
        for each in imports_of(MODULES[ways.pop()]):
            if each not in reached:
                reached.add(each)
                ways.append(each)
    return reached


@pytest.mark.parametrize("name", MODULES)
def test_no_module_imports_itself_in_the_end(name: str) -> None:
    assert name not in reached_from(name)


def test_the_explorer_comes_in_by_the_door_of_the_simulator_which_does_not_know_it() -> None:
    explorer, simulator = f"{NAME}.explorer", f"{NAME}.simulator"
    for path in TREES:
        if simulator in name_of(path):
            assert not [each for each in imports_of(path) if explorer in each], path
        else:
            assert not [each for each in imports_of(path) if each.startswith(f"{simulator}.")], path


def test_no_class_is_large() -> None:
    sizes = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    assert "Run" in sizes
    assert {name: lines for name, lines in sizes.items() if lines > 300} == {}


def test_only_the_adapters_read_what_is_private_elsewhere() -> None:
    """`_sdk` the SDK's, `_sagas` the library's, `_clock` what asyncio exports to those who write an event loop."""
    found = set()
    for path, tree in TREES.items():
        nodes = list(ast.walk(tree))
        own = {
            node.attr
            for node in nodes
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self"
        }
        own |= {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}
        read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and node.attr.startswith("_")}
        found |= {(path.stem, name) for name in read - own if not name.startswith("__")}
    assert {module for module, _ in found} <= {"_sdk", "_sagas", "_clock"}
    assert {name for module, name in found if module == "_clock"} == {"_get_running_loop", "_set_running_loop"}
    switched_off = [path.name for path in TREES if "reportPrivateUsage=false" in path.read_text(encoding="utf-8")]
    assert switched_off == ["_sdk.py"]

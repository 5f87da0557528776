"""`make lint` keeps the inside readable: imports point one way, classes and the core stay small, rooms stay private.

Each test breaks one limit of a small package, or comes just up to it.
"""

from __future__ import annotations

import importlib
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools import structure

tomllib: Any = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")  # pytest brings tomli

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    package = tmp_path / "temporal_saga"
    write(package / "__init__.py", "")
    return package


def write(file: Path, source: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source, "utf-8")


def code(lines: int) -> str:
    return "x = 1\n" * lines


def class_of(lines: int) -> str:
    return "class Big:\n" + "    x = 1\n" * (lines - 1)


# --- lines of code ---


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("", 0),
        ("x = 1\n\n# a comment\ny = 2  # another\n", 2),
        ('"""A module."""\n', 0),
        ('"""A module,\n\nwith more to say.\n"""\nx = 1\n', 1),
        ('def f():\n    """Say.\n\n    More.\n    """\n    return 1\n', 2),
        ('class C:\n    """Say."""\n    x: int\n    """An attribute\'s."""\n', 2),
        ('x = """a\n\nb"""\n', 3),
        ("f(\n    1,\n    # why\n\n    2,\n)\n", 4),
        ("x = 1; y = 2\n", 1),
        ("x = \\\n    1\n", 2),
    ],
)
def test_comments_docstrings_and_blank_lines_are_no_code(source: str, lines: int) -> None:
    assert structure.lines_of_code(source) == lines


# --- the core ---


@pytest.mark.parametrize("over", [0, 1])
def test_the_core_has_a_limit_that_all_its_files_share(package: Path, over: int) -> None:
    write(package / "_saga.py", code(structure.CORE_LIMIT - 700))
    write(package / "plugin.py", code(600))
    write(package / "deep" / "inside.py", code(100 + over) + "\n# not code\n")
    found = structure.offenders(package)
    assert len(found) == over
    assert all(f"{structure.CORE_LIMIT + 1:,} lines of code, 1 over" in line for line in found)


@pytest.mark.parametrize(
    "path",
    [
        "presets.py",
        "errors.py",
        "fence.py",
        "fence/_once.py",
        "classification/_read.py",
        "testing/kit/a.py",
        "_surface.py",
    ],
)
def test_what_stands_next_to_the_core_does_not_count(package: Path, path: str) -> None:
    write(package / path, code(structure.CORE_LIMIT + 1))
    assert structure.offenders(package) == []


@pytest.mark.parametrize("path", ["_fence.py", "testing_.py", "sub/errors.py", "sub/_surface.py"])
def test_a_name_that_looks_like_a_neighbors_counts(package: Path, path: str) -> None:
    write(package / path, code(structure.CORE_LIMIT + 1))
    assert len(structure.offenders(package)) == 1


# --- classes ---


@pytest.mark.parametrize("path", ["_saga.py", "testing/simulator/_run.py", "fence/__init__.py"])
@pytest.mark.parametrize("over", [0, 1])
def test_a_class_has_a_limit_wherever_it_is(package: Path, path: str, over: int) -> None:
    write(package / path, class_of(structure.CLASS_LIMIT + over))
    found = structure.offenders(package)
    assert len(found) == over
    assert all(path in line and "Big" in line and "301" in line for line in found)


def test_comments_count_in_a_class(package: Path) -> None:
    write(package / "_saga.py", "class Big:\n" + "    # why\n" * structure.CLASS_LIMIT + "    x = 1\n")
    assert len(structure.offenders(package)) == 1


def test_a_class_in_a_function_counts(package: Path) -> None:
    inner = "".join(f"    {line}\n" for line in class_of(structure.CLASS_LIMIT + 1).splitlines())
    write(package / "_saga.py", f"def f():\n{inner}")
    assert len(structure.offenders(package)) == 1


def test_the_typed_surface_may_be_long(package: Path) -> None:
    write(package / "_surface.py", class_of(structure.CLASS_LIMIT + 1))
    assert structure.offenders(package) == []


# --- private members ---

OFF = [
    "# pyright: reportPrivateUsage=false",
    "# pyright:reportPrivateUsage = none",
    "# pyright: strict, reportPrivateUsage=warning",
    "# pyright: basic",
    "# pyright: ignore",
    "x = 1  # pyright: ignore",
    "x = 1  # pyright: ignore[reportPrivateUsage]",
    "x = 1  # pyright: ignore [reportFoo, reportPrivateUsage]  # why",
]
ON = [
    "# pyright: strict",
    "# pyright: reportPrivateUsage=true",
    "# pyright: reportPrivateUsage=error",
    "x = 1  # pyright: ignore[reportUnknownMemberType]",
    "# a private member is a private member: pyright ignores nothing",
    'x = "# pyright: reportPrivateUsage=false"',
]


@pytest.mark.parametrize("line", OFF)
@pytest.mark.parametrize("path", ["_unwind.py", "testing/_run.py", "_sdk.py"])
def test_private_usage_is_not_switched_off(package: Path, path: str, line: str) -> None:
    write(package / path, f"x = 0\n{line}\n")
    (found,) = structure.offenders(package)
    assert f"{path}:2" in found


@pytest.mark.parametrize("line", ON)
def test_what_switches_nothing_off_is_allowed(package: Path, line: str) -> None:
    write(package / "_unwind.py", f"{line}\n")
    assert structure.offenders(package) == []


@pytest.mark.parametrize("line", OFF)
def test_the_adapter_to_the_sdk_may_read_private_members(package: Path, line: str) -> None:
    write(package / "testing" / "simulator" / "_sdk.py", f"{line}\n")
    assert structure.offenders(package) == []


@pytest.mark.parametrize(
    ("name", "line"),
    [("pyproject.toml", "reportPrivateUsage = false"), ("pyrightconfig.json", '"reportPrivateUsage": "none",')],
)
def test_private_usage_is_not_switched_off_in_the_settings(package: Path, name: str, line: str) -> None:
    write(package.parent / name, f"first\n{line}\n")
    (found,) = structure.offenders(package)
    assert f"{name}:2" in found


# --- the command ---


def test_the_command_prints_the_sizes(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(package / "_saga.py", code(1234))
    write(package / "errors.py", class_of(77))
    assert structure.main([str(package)]) == 0
    printed = capsys.readouterr()
    assert "1,234  the core" in printed.out
    assert "77  Big (errors.py)" in printed.out
    assert printed.err == ""


def test_the_command_fails_with_each_offender(package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(package / "_saga.py", class_of(structure.CORE_LIMIT + 100) + OFF[0])
    assert structure.main(["--quiet", str(package)]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.splitlines()) == 3


def test_the_command_refuses_a_folder_that_is_not_a_package(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit:
        structure.main([str(tmp_path)])
    assert exit.value.code == 2


# --- imports ---


def layers() -> list[list[str]]:
    """The rooms of the package, from the top; those of one layer know nothing of each other."""
    contracts: list[dict[str, Any]] = tomllib.loads(PYPROJECT.read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (contract,) = (contract for contract in contracts if contract["id"] == "layers")
    return [[room.strip(" ()") for room in layer.split("|")] for layer in contract["layers"]]


NOT_ALLOWED = "temporal_saga.{} is not allowed to import temporal_saga.{}:"
ROOMS = [room for layer in layers() for room in layer]
TYPE_CHECKING = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import {}\n"


@pytest.fixture
def rooms(package: Path) -> Path:
    """A package with all rooms, each of which imports all those below it."""
    for number, layer in enumerate(layers()):
        below = [room for layer in layers()[number + 1 :] for room in layer]
        for room in layer:
            write(package / f"{room}.py", f"from . import {', '.join(below)}\n" if below else "")
    write(package / "__init__.py", "from ._saga import x\n")
    return package


def linted(package: Path) -> tuple[int, str]:
    command = (
        "import sys; sys.path.insert(0, ''); from importlinter.cli import lint_imports_command; lint_imports_command()"
    )
    shutil.copy(PYPROJECT, package.parent)
    done = subprocess.run(
        [sys.executable, "-c", command, "--no-cache"],
        cwd=package.parent,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8", "COLUMNS": "200"},
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_imports_may_point_down(rooms: Path) -> None:
    code, printed = linted(rooms)
    assert code == 0, printed


@pytest.mark.parametrize("source", ["from . import {}\n", TYPE_CHECKING, "def f():\n    from . import {}\n"])
def test_each_import_against_the_direction_fails(package: Path, source: str) -> None:
    """Each room imports one of the layer above; rooms of one layer know nothing of each other either."""
    upward = [(low, high[0]) for high, layer in itertools.pairwise(layers()) for low in layer]
    sideways = [pair for layer in layers() for pair in itertools.pairwise(layer)]
    for room in ROOMS:
        write(package / f"{room}.py", "".join(source.format(other) for low, other in upward + sideways if low == room))
    code, printed = linted(package)
    assert code == 1
    allowed = [pair for pair in upward + sideways if NOT_ALLOWED.format(*pair) not in printed]
    assert allowed == [], printed


def test_a_new_room_needs_a_place(rooms: Path) -> None:
    write(rooms / "_new.py", "")
    code, printed = linted(rooms)
    assert code == 1
    assert "temporal_saga._new" in printed


@pytest.mark.parametrize("source", ["from . import {}\n", TYPE_CHECKING])
def test_a_circle_inside_a_room_fails(rooms: Path, source: str) -> None:
    simulator = rooms / "testing" / "simulator"
    (rooms / "testing.py").unlink()
    write(rooms / "testing" / "__init__.py", "")
    write(simulator / "__init__.py", "")
    write(simulator / "_run.py", source.format("_world"))
    write(simulator / "_world.py", source.format("_run"))
    code, printed = linted(rooms)
    assert code == 1
    assert "No cycles are allowed in temporal_saga.testing.simulator" in printed


def test_the_simulator_does_not_know_the_explorer(rooms: Path) -> None:
    (rooms / "testing.py").unlink()
    write(rooms / "testing" / "__init__.py", "")
    write(rooms / "testing" / "explorer.py", "")
    write(rooms / "testing" / "simulator.py", "from . import explorer\n")
    code, printed = linted(rooms)
    assert code == 1
    assert "temporal_saga.testing.simulator is not allowed to import temporal_saga.testing.explorer" in printed


@pytest.mark.parametrize("room", ["_saga", "plugin", "fence"])
def test_the_rooms_do_not_import_from_the_facade(rooms: Path, room: str) -> None:
    with (rooms / f"{room}.py").open("a") as file:
        file.write("from temporal_saga import Saga\n")
    code, printed = linted(rooms)
    assert code == 1
    assert f"temporal_saga.{room}" in printed


def test_the_testing_kit_imports_from_the_facade_as_its_users_do(rooms: Path) -> None:
    with (rooms / "testing.py").open("a") as file:
        file.write("from temporal_saga import Saga\n")
    code, printed = linted(rooms)
    assert code == 0, printed

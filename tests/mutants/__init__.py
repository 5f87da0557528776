"""Broken copies of the library: each patch here breaks one rule, and names the tests that must notice.

    Rule 1: compensations run newest first.
    Fails: test_rule_01_order.py::test_rule_01_newest_first
    --- temporal_saga/_unwind.py
    +++ temporal_saga/_unwind.py
    @@
    -            await _undo(scope, todo.pop())
    +            await _undo(scope, todo.pop(0))

A hunk has no line numbers: its old lines must occur exactly once in the file, wherever that is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import temporal_saga

HERE = Path(__file__).parent
_TESTS = HERE.parent


@dataclass(frozen=True)
class Mutant:
    """A broken copy of the library."""

    name: str
    rule: str
    tests: list[str]
    """The tests that must fail, each with an assertion; node ids under tests/rules, or under tests if with a slash."""
    file: str
    hunks: list[tuple[str, str]]

    def __str__(self) -> str:
        return self.name

    def applied_to(self, source: str) -> str:
        """Return the file, broken."""
        for old, new in self.hunks:
            found = f"\n{source}".count(f"\n{old}")
            assert found == 1, f"{self.name}: its old lines occur {found} times in {self.file}"
            source = f"\n{source}".replace(f"\n{old}", f"\n{new}")[1:]
        return source


class Result(NamedTuple):
    """What pytest said."""

    code: int
    failed: set[str]
    """The test functions that failed with an assertion, not with an error that any change might cause."""
    output: str


def parse(path: Path) -> Mutant:
    """Read a patch file."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    rule, fails, old_file, new_file = (line.strip() for line in lines[:4])
    assert fails.startswith("Fails: "), path
    file = old_file.removeprefix("--- temporal_saga/")
    assert new_file == f"+++ temporal_saga/{file}", path
    hunks: list[tuple[str, str]] = []
    for line in lines[4:]:
        if line.startswith("@@"):
            hunks.append(("", ""))
            continue
        old, new = hunks[-1]
        assert line[0] in " -+", f"{path}: {line!r}"
        hunks[-1] = (old + (line[1:] if line[0] != "+" else ""), new + (line[1:] if line[0] != "-" else ""))
    return Mutant(path.stem, rule, fails.removeprefix("Fails: ").split(", "), file, hunks)


def all_mutants() -> list[Mutant]:
    """Return every mutant, by name; on an older Python not those that say `(Python 3.11)`."""
    mutants = [parse(path) for path in sorted(HERE.glob("*.patch"))]
    return [mutant for mutant in mutants if sys.version_info >= (3, 11) or "(Python 3.11)" not in mutant.rule]


class Nursery:
    """Runs tests of the rules against copies of the library under test, one after another."""

    def __init__(self) -> None:
        environment = dict(os.environ, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
        environment.pop("TEMPORAL_SAGA_INSTALLED", None)  # it demands the installed wheel
        command = [sys.executable, str(HERE / "nursery.py")]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def run(self, bed: Path, tests: list[str], mutant: Mutant | None = None) -> Result:
        """Run tests against a copy of the library, broken or not.

        Args:
            bed: An empty directory, which becomes the first place to import from.
            tests: Node ids, as in a `Mutant`.
            mutant: How to break the copy.
        """
        package = bed / "temporal_saga"
        shutil.copytree(Path(temporal_saga.__file__).parent, package)
        for name in ("tests", "examples", "tools", "pyproject.toml"):
            (bed / name).symlink_to(_TESTS.parent / name)
        if mutant is not None:
            broken = package / mutant.file
            broken.write_text(mutant.applied_to(broken.read_text(encoding="utf-8")), encoding="utf-8")
        report, output_file = bed / "report.xml", bed / "output.txt"
        options = ["--tb=native", "-p", "no:cacheprovider", f"--junitxml={report}"]
        plugins = ["-p", "pytest_asyncio.plugin", "-p", "pytest_timeout"]
        arguments = [*plugins, *options, *map(_path, tests)]
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"bed": str(bed), "arguments": arguments, "output": str(output_file)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        output = output_file.read_text(encoding="utf-8")
        assert f"temporal_saga: {package}" in output, output
        return Result(code, _failed(report), output)


def _failed(report: Path) -> set[str]:
    return {
        _function(case)
        for case in ET.parse(report).iter("testcase")
        for failure in case.iter("failure")
        # pytest leaves the type out where it has rewritten the assertion.
        if failure.get("message", "").startswith(("AssertionError", "assert ", "Failed: DID NOT RAISE"))
    }


def _path(test: str) -> str:
    return f"tests/{test}" if "/" in test.partition("::")[0] else f"tests/rules/{test}"


def _function(case: ET.Element) -> str:
    module = case.get("classname", "").rpartition(".")[2]
    return f"{module}.py::{case.get('name', '').partition('[')[0]}"

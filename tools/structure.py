"""Prints how large the package is, and fails where a part of it has grown over its limit: `python -m tools.structure`.

Three limits keep the inside readable:

* the core has at most `CORE_LIMIT` lines of code. Comments, docstrings and blank lines do not count;
* no class is longer than 300 lines, all its lines counted;
* no file reads private members of another: pyright's `reportPrivateUsage` is on, but for the adapter to the SDK.

The typed surface is in neither count: its length is that of the SDK's overloads. Import directions are import-linter's.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CORE_LIMIT = 3091  # lower it with each line that goes; the aim is 1,700
CLASS_LIMIT = 300

APART = {"__main__", "_picture", "classification", "cli", "errors", "fence", "presets", "testing"}
"""Rooms next to the core, modules or packages."""

SURFACE = "_surface.py"
"""The typed surface."""

ADAPTERS = {"testing/simulator/_sdk.py"}
"""Files that may read private members: the SDK's."""

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}
# `basic`, `standard` and `off` leave the rule out; an `ignore` without a rule silences each one.
_PRIVATE_USAGE_OFF = re.compile(
    r"#\s*pyright:.*("
    r"\breportPrivateUsage\s*=\s*(?!true|error)"
    r"|\bignore\s*\[[^]]*\breportPrivateUsage\b"
    r"|\bignore\s*(?!\s*\[)(\W|$)"
    r"|\b(basic|standard|off)\b)"
)
_SETTINGS = ("pyproject.toml", "pyrightconfig.json")


@dataclass(frozen=True)
class Module:
    """A file of the package."""

    path: str
    """Relative to the package."""
    lines: int
    """Its lines of code."""
    is_core: bool


@dataclass(frozen=True)
class Class:
    """A class of the package."""

    path: str
    name: str
    lines: int


def lines_of_code(source: str) -> int:
    """Count the lines that hold code: not comments, docstrings, or nothing."""
    docstrings = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = set[int]()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def modules(package: Path) -> list[Module]:
    """Measure the files of a package."""
    return [
        Module(path, lines_of_code(source), path != SURFACE and re.split(r"[/.]", path)[0] not in APART)
        for path, source in _sources(package)
    ]


def classes(package: Path) -> list[Class]:
    """Measure the classes of a package, without those of the typed surface; the longest comes first."""
    found = [
        Class(path, node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for path, source in _sources(package)
        if path != SURFACE
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef)
    ]
    return sorted(found, key=lambda found: (-found.lines, found.path, found.name))


def private_usage_off(package: Path) -> list[str]:
    """Say where `reportPrivateUsage` is switched off, but for the adapters: in a file, or in pyright's settings."""
    places = [
        f"{package.name}/{path}:{token.start[0]}"
        for path, source in _sources(package)
        if path not in ADAPTERS
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and _PRIVATE_USAGE_OFF.search(token.string)
    ]
    for name in _SETTINGS:
        settings = package.parent / name
        if settings.exists():
            lines = settings.read_text("utf-8").splitlines()
            places += [f"{name}:{number}" for number, line in enumerate(lines, 1) if "reportPrivateUsage" in line]
    return places


def offenders(package: Path) -> list[str]:
    """Return a line for each limit that is not kept; each names what to do."""
    found = list[str]()
    core = sum(module.lines for module in modules(package) if module.is_core)
    if core > CORE_LIMIT:
        found.append(f"the core has {core:,} lines of code, {core - CORE_LIMIT:,} over its limit: make it simpler")
    found += [
        f"{package.name}/{found.path}: class {found.name} has {found.lines} lines, over {CLASS_LIMIT}: split it by jobs"
        for found in classes(package)
        if found.lines > CLASS_LIMIT
    ]
    found += [
        f"{place}: reportPrivateUsage is off: give what is read a public name, or move the code that reads it"
        for place in private_usage_off(package)
    ]
    return found


def report(package: Path) -> Iterator[str]:
    """Give the lines that show the sizes."""
    measured = modules(package)
    core = [module for module in measured if module.is_core]
    yield "lines of code, without comments, docstrings and blank lines"
    for module in sorted(core, key=lambda module: -module.lines):
        yield f"{module.lines:>8,}  {module.path}"
    yield f"{sum(module.lines for module in core):>8,}  the core, of at most {CORE_LIMIT:,}"
    for room in sorted({re.split(r"[/.]", module.path)[0] for module in measured if not module.is_core}):
        lines = sum(module.lines for module in measured if re.split(r"[/.]", module.path)[0] == room)
        yield f"{lines:>8,}  {room}, apart"
    yield ""
    yield f"the longest classes, of at most {CLASS_LIMIT} lines"
    for found in classes(package)[:5]:
        yield f"{found.lines:>8,}  {found.name} ({found.path})"


def main(arguments: list[str] | None = None) -> int:
    """Print the sizes, then each offender; return the exit code, 1 if there is one."""
    parser = argparse.ArgumentParser(prog="python -m tools.structure", description="Measures the package.")
    parser.add_argument("--quiet", action="store_true", help="print only what is over its limit")
    default = Path(__file__).parents[1] / "temporal_saga"
    parser.add_argument("package", nargs="?", type=Path, default=default, help="the package's folder")
    chosen = parser.parse_args(arguments)
    package: Path = chosen.package
    if not (package / "__init__.py").is_file():
        parser.error(f"{package} is not a package")
    if not chosen.quiet:
        print("\n".join(report(package)), flush=True)
    found = offenders(package)
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


def _sources(package: Path) -> Iterator[tuple[str, str]]:
    for file in sorted(package.rglob("*.py")):
        yield file.relative_to(package).as_posix(), file.read_text("utf-8")


if __name__ == "__main__":
    sys.exit(main())

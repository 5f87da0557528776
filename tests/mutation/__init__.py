"""Mutation testing of the modules that decide what is undone, under which key: mutmut makes the mutants.

`survivors.txt` lists the mutants that no test fails for, each with the reason why it may live:

    # The reason, which holds for the mutants below it.
    _identity.business_key
    -     return str(...)
    +     return str(... changed ...)

An entry ends with an empty line. Only the lines that differ are compared, and how they are broken is not.

Mutmut changes what is within functions. It leaves out the decorated ones (properties, cached functions) and what stands
outside of functions: frozen values of the tests hold those.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
TABLE = HERE / "survivors.txt"
# What is mutated; pyproject.toml says it to mutmut.
MODULES = {
    "_identity": "_identity.py",
    "_outcome": "_outcome.py",
    "fence": "fence/__init__.py",
    "fence._database": "fence/_database.py",
    "fence._once": "fence/_once.py",
    "fence._payload": "fence/_payload.py",
}


def module_of(function: str) -> str:
    """Return the module of a function; an empty str if that is not one that is mutated."""
    return max((name for name in MODULES if function.startswith(f"{name}.")), key=len, default="")


class Mutant(NamedTuple):
    """A mutant, by what it changes: mutmut's own names hold a number, which changes with the function."""

    function: str
    """Module, class and name, without the package."""
    was: str
    becomes: str

    def __str__(self) -> str:
        return f"{self.function}\n-     {self.was}\n+     {self.becomes}"


def read_diff(function: str, lines: list[str]) -> Mutant:
    """Return the mutant that a diff shows."""
    was, becomes = (
        " ".join(line[1:].strip() for line in lines if line[:1] == sign and line[:3] != sign * 3) for sign in "-+"
    )
    return Mutant(function, was, becomes)


def read_table(text: str) -> dict[Mutant, str]:
    """Return the mutants that a table lists, each with its reason."""
    found: dict[Mutant, str] = {}
    for entry in text.strip().split("\n\n"):
        lines = entry.splitlines()
        reason = " ".join(line[1:].strip() for line in lines if line.startswith("#"))
        rest = [line for line in lines if not line.startswith("#")]
        assert reason, f"an entry without a reason: {entry}"
        starts = [number for number, line in enumerate(rest) if line[:1] not in "-+"]
        assert starts[:1] == [0], f"an entry begins with its reason, then the function: {entry}"
        for start, end in zip(starts, [*starts[1:], len(rest)], strict=True):
            mutant = read_diff(rest[start], rest[start + 1 : end])
            assert module_of(mutant.function), f"not in a module that is mutated: {entry}"
            assert mutant.was != mutant.becomes, f"no difference: {entry}"
            assert mutant not in found, f"listed twice: {mutant}"
            found[mutant] = reason
    return found

"""The record of the public API, tests/api.txt: every public name, and what it is called with.

A change of the API shows as a difference from the record, in `tests/test_api_record.py` and in a review. `make api`
records an intended one.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import sys
from collections.abc import Iterator

from tools.twins import MODULES, ROOT, methods, plain

RECORD = ROOT / "tests" / "api.txt"


def record() -> str:
    """Return the public API as lines, sorted within each module."""
    return "\n".join(line for module in MODULES for line in _module(module)) + "\n"


def _module(name: str) -> Iterator[str]:
    module = importlib.import_module(name)
    for each in sorted(module.__all__):
        yield from _name(f"{name}.{each}", getattr(module, each))


def _name(name: str, value: object) -> Iterator[str]:
    if inspect.ismodule(value):
        yield f"{name}: module {value.__name__}"
    elif isinstance(value, type):
        yield f"{name}: class{_called_with(value)}"
        yield from (f"{name}.{own}: {kind}" for own, kind in sorted(_members(value)))
    elif inspect.isroutine(value):
        yield f"{name}: function{_called_with(value)}"
    else:
        yield f"{name}: {type(value).__name__}"


def _members(owner: type) -> Iterator[tuple[str, str]]:
    if issubclass(owner, enum.Enum):
        yield from ((each.name, repr(each.value)) for each in owner)
    elif issubclass(owner, dict):  # a TypedDict, which is called with its keys
        yield from ((key, "key") for key in owner.__annotations__)
    for name, member in methods(owner):
        yield name, "property" if isinstance(member, property) else f"method{_called_with(member)}"


def _called_with(value: object) -> str:
    if isinstance(value, type) and issubclass(value, (enum.Enum, dict)):
        return ""
    if isinstance(value, type):
        owner = next(each for each in value.__mro__ if "__init__" in vars(each) or "__new__" in vars(each))
        if not owner.__module__.startswith("temporal_saga"):
            return f", called as {owner.__name__}"
    return str(plain(inspect.signature(value)))  # type: ignore[arg-type]


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        RECORD.write_text(record())
    else:
        print(record(), end="")

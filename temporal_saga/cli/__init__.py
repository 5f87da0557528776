"""`temporal-saga`, the command line: see what happened to sagas, find those that need a person, and settle them.

pip install 'temporal-saga[cli]'
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]

_NEEDS = ("click", "rich")


def main() -> None:
    """Run the command line. If its libraries are missing, say how to install them."""
    missing = [name for name in _NEEDS if find_spec(name) is None]
    if missing:
        sys.exit(f"temporal-saga needs {' and '.join(missing)}: pip install 'temporal-saga[cli]'")
    from ._commands import main as run

    run()

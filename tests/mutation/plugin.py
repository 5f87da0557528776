"""A plugin of pytest's for the runs of mutmut, which loads it by its name (pyproject.toml)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import Phase, settings

from temporal_saga.fence import _database

_STATS = Path("mutmut-stats.json")  # where mutmut runs the tests


def pytest_configure() -> None:
    # The same examples for each mutant, and no time spent on small ones.
    settings.register_profile("mutation", derandomize=True, database=None, phases=[Phase.explicit, Phase.generate])
    settings.load_profile("mutation")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the fastest tests first: the first that fails ends the run. Mutmut's own order is that of a set."""
    if _STATS.exists():
        durations = json.loads(_STATS.read_text(encoding="utf-8"))["duration_by_test"]
        items.sort(key=lambda item: (durations.get(item.nodeid, 0.0), item.nodeid))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let the fence make its statements again: mutmut switches a mutant on after they were made."""
    if "fence" in item.path.parts:
        _database.statements_of.cache_clear()

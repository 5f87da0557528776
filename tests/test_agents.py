"""AGENTS.md: its workflow and its test recipe run as they stand, with activities and a world that keep its rules."""

from __future__ import annotations

import re
import sys
import types
from dataclasses import dataclass
from typing import Any

import pytest
from temporalio import activity

from temporal_saga import current_step
from temporal_saga.errors import Fenced
from tools.twins import ROOT

BLOCKS = re.findall(r"^```python\n(.*?)^```$", (ROOT / "AGENTS.md").read_text(), re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class OrderInput:
    id: str
    cents: int


class World:
    """Effects by key, at most one for each; an undo takes back what its step did, and refuses what comes late."""

    def __init__(self) -> None:
        self.effects: set[str] = set()
        self.undone: set[str] = set()
        self.names: dict[str, str] = {}
        self.activities = [
            *(self._make(name, self._do) for name in ("reserve", "charge", "ship")),
            *(self._make(name, self._undo) for name in ("release", "refund")),
        ]

    @staticmethod
    def _make(name: str, function: Any) -> Any:
        async def run(order: OrderInput) -> None:
            function(name)

        return activity.defn(name=name)(run)

    def _do(self, name: str) -> None:
        step = current_step()
        if step.key in self.undone:
            raise Fenced
        self.effects.add(step.key)
        self.names[step.key] = name

    def _undo(self, name: str) -> None:
        key = current_step().forward_key
        assert key is not None
        self.undone.add(key)
        self.effects.discard(key)

    def is_consistent(self) -> bool:
        """Whether nothing is paid that is not reserved, and nothing is shipped that is not paid."""
        standing = {self.names[key] for key in self.effects}
        return ("charge" not in standing or "reserve" in standing) and ("ship" not in standing or "charge" in standing)


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The page's blocks as one module."""
    activities = types.ModuleType("my_app.activities")
    for each in World().activities:
        setattr(activities, each.__temporal_activity_definition.name, each)
    activities.OrderInput = OrderInput  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_app", types.ModuleType("my_app"))
    monkeypatch.setitem(sys.modules, "my_app.activities", activities)
    module = types.ModuleType("recipe")
    monkeypatch.setitem(sys.modules, "recipe", module)
    vars(module).update(World=World, OrderInput=OrderInput)
    for block in BLOCKS:
        exec(block.replace("faults=2", "faults=1"), vars(module))  # one is enough here, and a tenth of the time
    return module


def test_the_recipe_of_agents_md_runs(recipe: Any) -> None:
    recipe.test_no_fault_leaves_an_effect()


def test_the_recipe_of_agents_md_finds_a_missing_undo(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "_undo", lambda self, name: None)
    with pytest.raises(AssertionError):
        recipe.test_no_fault_leaves_an_effect()

"""A few of the gaps; `python -m tests.storm gaps` tries them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from .gaps import SCENARIOS, VICTIMS, Gap, try_gaps

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(120)]


def one_of_each(gaps: list[Gap]) -> list[Gap]:
    """One for each victim, at different points of the second half: from there on something is parked."""
    by_victim = [[gap for gap in gaps if gap.victim == victim] for victim in VICTIMS]
    return [gaps[len(gaps) * (number + 4) // 8] for number, gaps in enumerate(by_victim)]


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_a_kill_changes_nothing_of_the_outcome(scenario: str, tmp_path: Path) -> None:
    """Of the worker, of the server, and of both, while something is parked, for a step and for an undo."""
    assert await try_gaps(tmp_path, scenario, one_of_each) == []

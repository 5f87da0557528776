"""A few of the gaps; `python -m tests.storm gaps` tries them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from .gaps import SCENARIOS, try_gaps

pytestmark = [pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_a_kill_changes_nothing_of_the_outcome(scenario: str, tmp_path: Path) -> None:
    """Of the worker, of the server, and of both, while something is parked, for a step and for an undo."""
    assert await try_gaps(tmp_path, scenario, slice(25, None, 37)) == []

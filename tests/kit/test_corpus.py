"""The testing kit's verdicts on workflows that were written without a look at the kit.

What the kit gets wrong stands in a table with the reason. The tables are strict: who teaches the kit something takes the
line out.
"""

import warnings
from datetime import timedelta
from typing import Any

import pytest

from temporal_saga.testing import Exploration, explore
from tests.kit.corpus import BUGGY, CORRECT
from tests.kit.corpus.case import Buggy, Case, Correct

pytestmark = pytest.mark.slow

MISSED: dict[str, str] = {}
"""Bugs that the kit does not see, and why."""

FALSE_ALARMS: dict[str, str] = {}
"""Correct workflows in which the kit sees a bug, and why."""

MISLABELED: dict[str, str] = {}
"""Bugs whose first violation names something else, and what."""


def _explored(case: Case, *, first: bool) -> Exploration:
    options: dict[str, Any] = {"faults": 2, "within": timedelta(seconds=25), **case.options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a step that was never awaited: that is one of the bugs
        return explore(
            case.run, *case.args, setup=case.setup, check=case.check, fail=False, first=first, progress=False, **options
        )


def _found(case: Buggy, exploration: Exploration) -> bool:
    if case.listed:
        return any(name in case.culprit for name in exploration.without_compensation)
    return bool(exploration.violations)


def _named(case: Buggy, exploration: Exploration) -> bool:
    if case.listed:
        return True
    violation = exploration.violations[0]
    text = f"{violation.kind}: {violation.message} {violation.plan}"
    return any(name in text for name in case.culprit)


@pytest.mark.parametrize("case", BUGGY, ids=lambda case: case.name)
def test_every_bug_is_found_and_the_first_violation_names_the_culprit(case: Buggy) -> None:
    """A bug is found by at most two faults, or is known to be missed."""
    exploration = _explored(case, first=not case.listed)
    if case.name in MISSED:
        assert not _found(case, exploration), f"it is found now: take {case.name!r} out of MISSED"
        return
    assert _found(case, exploration), f"{case.bug} Expected: {case.expected}\n{exploration}"
    if case.name in MISLABELED:
        assert not _named(case, exploration), f"its culprit is named now: take {case.name!r} out of MISLABELED"
        return
    assert _named(case, exploration), f"{case.bug} Expected: {case.expected}\n{exploration}"


@pytest.mark.parametrize("case", CORRECT, ids=lambda case: case.name)
def test_a_correct_workflow_has_no_violation(case: Correct) -> None:
    """What is right is not called wrong, and all of it has been tried."""
    exploration = _explored(case, first=False)
    if case.name in FALSE_ALARMS:
        assert exploration.violations, f"there is no false alarm any more: take {case.name!r} out of FALSE_ALARMS"
        return
    assert not exploration.violations, str(exploration)
    assert exploration.untried == 0
    assert sorted(exploration.without_compensation) == sorted(case.without_compensation)


def test_the_tables_name_cases_of_the_corpus() -> None:
    """A line for a case that is gone, or that is spelled wrong, excuses nothing."""
    names = [case.name for case in (*BUGGY, *CORRECT)]
    assert len(names) == len(set(names))
    assert {*MISSED, *MISLABELED} <= {case.name for case in BUGGY}
    assert set(FALSE_ALARMS) <= {case.name for case in CORRECT}
    assert len(BUGGY) >= 30
    assert len(CORRECT) >= 15

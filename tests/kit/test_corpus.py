"""The testing kit's verdicts on workflows that were written without a look at the kit.

What the kit gets wrong stands in a table with the reason. The tables are strict: whoever teaches the kit something
takes the line out.
"""

import warnings
from typing import Any

import pytest

from temporal_saga.testing import Exploration, SimulationError, explore
from tests.kit.corpus import BUGGY, CORRECT
from tests.kit.corpus.case import Buggy, Case, Correct

pytestmark = pytest.mark.slow

MISSED: dict[str, str] = {
    "global-in-the-workflow": "it runs without the sandbox, and arguments that vary by themselves are not compared"
}
"""Bugs that the kit does not see, and why."""

MISLABELED: dict[str, str] = {}
"""Bugs whose first violation does not name the culprit, and what it names."""

FALSE_ALARMS: dict[str, tuple[str, str]] = {}
"""Correct workflows in which the kit sees a bug: what it says, and why that is wrong."""

ELSEWHERE = frozenset({"order-of-a-set", "random-in-the-workflow", "clock-in-the-workflow"})
"""Cases that only the sandbox or a replay in another process can show: the others leave both out, which is quicker."""

ONE_FAULT = frozenset(
    {
        *("cart", "build-children", "build-remove", "trip-alternatives", "trip-together-back", "order-ambiguous"),
        *("batches", "months", "account-updated-anytime", "transfer-receipt", "assign-two", "order-discount"),
        *("child-without-an-undo-unchecked", "plain-activity-unchecked", "two-effects-in-one-activity"),
        *ELSEWHERE,
    }
)
"""Cases that show with one fault what they are for: another case of their shape has two."""


def _explored(case: Case, *, first: bool) -> Exploration:
    # Without `within=`, which shuffles the plans: the first violation is the one that a user sees first.
    faults = 1 if case.name in ONE_FAULT else 2
    options: dict[str, Any] = {"faults": faults, "elsewhere": case.name in ELSEWHERE, **case.options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a step that was never awaited: that is one of the bugs
        return explore(
            case.run, *case.args, setup=case.setup, check=case.check, fail=False, first=first, progress=False, **options
        )


def _findings(case: Buggy) -> list[str]:
    """Return what the kit says against the case, the first finding first."""
    try:
        exploration = _explored(case, first=not case.listed)
    except SimulationError as error:
        return [str(error)]
    if case.listed:
        listed = (*exploration.without_compensation, *exploration.plain_activities)
        return [name for name in listed if name in case.culprit]
    return [f"{found.kind}: {found.message} {found.plan}" for found in exploration.violations]


def _objections(case: Correct) -> list[str]:
    """Return what the kit says against each plan, and against the whole."""
    exploration = _explored(case, first=False)
    by_plan: dict[str, str] = {}
    for found in exploration.violations:
        plan = str(found.plan)
        by_plan[plan] = by_plan.get(plan, f"{plan}\n{found.timeline}") + f"\n{found.kind}: {found.message}"
    objections = list(by_plan.values())
    if exploration.tried > 1 and sorted(exploration.without_compensation) != sorted(case.without_compensation):
        objections.append(f"listed without compensation: {exploration.without_compensation}")
    return objections


@pytest.mark.parametrize("case", BUGGY, ids=lambda case: case.name)
def test_every_bug_is_found_and_the_first_violation_names_the_culprit(case: Buggy) -> None:
    """A bug shows with at most two faults, or is known to be missed."""
    findings = _findings(case)
    if case.name in MISSED:
        assert not findings, f"it is found now: take {case.name!r} out of MISSED"
        return
    assert findings, f"not found: {case.bug} Expected: {case.expected}"
    named = any(name in findings[0] for name in case.culprit)
    if case.name in MISLABELED:
        assert not named, f"the culprit is named now: take {case.name!r} out of MISLABELED"
        return
    assert named, f"{case.bug} Expected: {case.expected}, one of {case.culprit}. Found: {findings[0]}"


@pytest.mark.parametrize("case", CORRECT, ids=lambda case: case.name)
def test_a_correct_workflow_has_no_violation(case: Correct) -> None:
    """What is right is not called wrong, and everything has been tried."""
    objections = _objections(case)
    known, why = FALSE_ALARMS.get(case.name, (None, ""))
    others = [objection for objection in objections if known is None or known not in objection]
    assert not others, "\n".join(others)
    if known:
        assert objections, f"it is not called wrong any more, though {why}: take {case.name!r} out of FALSE_ALARMS"


def test_the_tables_name_cases_of_the_corpus() -> None:
    """A line for a case that is gone, or that is spelled wrong, excuses nothing."""
    names = [case.name for case in (*BUGGY, *CORRECT)]
    assert len(names) == len(set(names))
    assert {*MISSED, *MISLABELED} <= {case.name for case in BUGGY}
    assert not set(MISSED) & set(MISLABELED)
    assert set(FALSE_ALARMS) <= {case.name for case in CORRECT}
    assert set(names) >= ONE_FAULT
    assert len(BUGGY) - len(MISSED) >= 30
    assert len(CORRECT) - len(FALSE_ALARMS) >= 15

"""The simulator and the real server tell the same of every case."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import fields, replace
from typing import Any, cast

import pytest
from temporalio.testing import WorkflowEnvironment

from . import cases, workflows
from .cases import CASES, FEATURES, Case
from .observe import Observation, Servers, failed, simulated

AT_A_TIME = 16
# Real time: what a loaded machine needs for its workflow tasks. The intervals of these cases are longer, or skipped.
LATE = 2.5
HERE = [case for case in CASES if sys.version_info >= case.python]


def test_each_feature_has_a_case_and_each_case_is_listed_once() -> None:
    covered = {feature for case in CASES for feature in case.covers}
    assert covered == FEATURES
    assert len({case.name for case in CASES}) == len(CASES)
    assert len({case.id for case in CASES}) == len(CASES)
    assert len(CASES) >= 60
    lists: list[Any] = [value for name, value in vars(cases).items() if name.endswith("_CASES")]
    assert [case.name for each in lists for case in each] == [case.name for case in CASES]


def test_each_workflow_and_worker_is_of_use() -> None:
    defined = {value for value in vars(workflows).values() if hasattr(value, "__temporal_workflow_definition")}
    assert defined == set(workflows.WORKFLOWS)
    roots = {case.run.__qualname__.split(".")[0] for case in CASES}
    assert {each.__name__ for each in workflows.WORKFLOWS} - roots == {"NextOne"}  # which one continues as
    assert {case.worker for case in CASES} == set(cases.WORKERS)


@pytest.fixture(scope="session")
async def served(
    env: WorkflowEnvironment, time_skipping_env: WorkflowEnvironment, request: pytest.FixtureRequest
) -> AsyncIterator[dict[str, Observation | str]]:
    """What the server told of each case that is to be tested: all of them run at a time."""
    wanted = {
        cast(Case, item.callspec.params["case"]).name
        for item in request.session.items
        if isinstance(item, pytest.Function) and "served" in item.fixturenames
    }
    chosen = [case for case in CASES if case.name in wanted]
    found: dict[str, Observation | str] = {}
    turn = asyncio.Semaphore(AT_A_TIME)

    async def observe(case: Case) -> None:
        async with turn:
            try:
                found[case.name] = await servers.observe(case)
            except Exception as error:
                found[case.name] = failed(error)

    async with Servers(env, time_skipping_env) as servers:
        await servers.start_workers(chosen)
        await asyncio.gather(*map(observe, chosen))
        yield found


def differences(here: Observation, there: Observation) -> list[str]:
    """What the two do not agree on, for people."""
    if len(here.attempts) == len(there.attempts):
        attempts: list[Sequence[Any]] = [_as_known(*pair) for pair in zip(here.attempts, there.attempts, strict=True)]
        here = replace(here, attempts=attempts, last_failures=_as_known(here.last_failures, there.last_failures))
    names = [each.name for each in fields(Observation) if each.name != "times"]
    return [
        f"{name}: {getattr(here, name)} in the simulator, {getattr(there, name)} on the server"
        for name in names
        if getattr(here, name) != getattr(there, name)
    ]


def _as_known(here: Sequence[Any], there: Sequence[Any]) -> list[Any]:
    return [None if known is None else each for each, known in zip(here, there, strict=True)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("case", HERE, ids=[case.name for case in HERE])
def test_here_as_there(case: Case, served: dict[str, Observation | str]) -> None:
    there = served[case.name]
    assert isinstance(there, Observation), there
    here = simulated(case)
    assert differences(here, there) == []
    if case.compares_times:
        for expected, time in zip(here.times, there.times, strict=True):
            assert expected - 0.05 <= time <= expected + LATE

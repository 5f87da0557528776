"""A run that a query has taken ahead of its history is replayed, and no other run is."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from temporalio import workflow
from temporalio.bridge.proto.workflow_activation import WorkflowActivation
from temporalio.worker import UnsandboxedWorkflowRunner, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from temporal_saga._ahead import _Activate, watching
from tests.driver import Run
from tests.rules.workflows import end


def activation(length: int, seconds: int, kind: str, query_id: str = "legacy_query") -> WorkflowActivation:
    made = WorkflowActivation(history_length=length)
    made.timestamp.FromSeconds(seconds)
    job = made.jobs.add()
    getattr(job, kind).SetInParent()
    if kind == "query_workflow":
        job.query_workflow.query_id = query_id
    return made


FIRST = (3, 100, "initialize_workflow")
AHEAD = (8, 100, "resolve_activity")  # longer, at the time of the task before
QUERY = (8, 100, "query_workflow")
CASES: dict[str, tuple[list[tuple[Any, ...]], bool]] = {
    "the task comes": ([FIRST, AHEAD, QUERY, (9, 101, "do_update")], True),
    "after another query with more events": (
        [FIRST, AHEAD, QUERY, (11, 100, "fire_timer"), (14, 101, "fire_timer")],
        True,
    ),
    "after two activations of one query": ([FIRST, AHEAD, AHEAD, QUERY, (9, 101, "signal_workflow")], True),
    "a task for each": (
        [FIRST, (8, 101, "resolve_activity"), (8, 101, "query_workflow"), (13, 102, "do_update")],
        False,
    ),
    "a task with two activations": (
        [FIRST, (8, 101, "fire_timer"), (8, 101, "resolve_activity"), (12, 102, "do_update")],
        False,
    ),
    "a query and an eviction": ([FIRST, AHEAD, QUERY, (8, 100, "remove_from_cache")], False),
    "time that stands still without a query, as in a test": ([FIRST, AHEAD, (13, 101, "do_update")], False),
    "a query with its task": ([FIRST, AHEAD, (*QUERY, "a query"), (13, 101, "do_update")], False),
    "a query that brings nothing to do": ([FIRST, (9, 100, "query_workflow"), (11, 101, "do_update")], False),
}


@pytest.mark.parametrize(("activations", "is_dropped"), CASES.values(), ids=CASES)
def test_a_run_that_is_ahead_fails_its_next_workflow_task(activations: list[Any], is_dropped: bool) -> None:
    """And no other activation of any run fails."""
    activated: list[WorkflowActivation] = []
    activate = _Activate(activated.append)
    *before, last = [activation(*each) for each in activations]
    for each in before:
        activate(each)
    if is_dropped:
        with pytest.raises(RuntimeError, match="ahead of its history"):
            activate(last)
    else:
        activate(last)
    assert activated == [*before, *([] if is_dropped else [last])]


@workflow.defn
class Plain:
    @workflow.run
    async def run(self) -> None: ...


class Own(UnsandboxedWorkflowRunner):
    """A runner of the user's."""


@pytest.mark.parametrize(
    "runner", [SandboxedWorkflowRunner(), UnsandboxedWorkflowRunner(), Own()], ids=lambda each: type(each).__name__
)
def test_a_runner_keeps_its_type(runner: WorkflowRunner) -> None:
    """Other plugins ask for the type, and copy a sandbox's runner with other restrictions."""
    watched = watching(runner)
    assert isinstance(watched, type(runner))
    if isinstance(watched, SandboxedWorkflowRunner):
        restrictions = SandboxRestrictions.default.with_passthrough_modules("anything")
        watched = dataclasses.replace(watched, restrictions=restrictions)
        assert watched.restrictions is restrictions
    assert end(Run(Plain, runner=watched).start()) == "None"


@pytest.mark.parametrize("runner", [SandboxedWorkflowRunner(), UnsandboxedWorkflowRunner()])
def test_a_plugin_that_is_given_twice_is_refused(runner: WorkflowRunner) -> None:
    """A client hands its plugins on to its workers. A worker with the plugin twice would hold each close twice."""
    with pytest.raises(ValueError, match="give it once, to the client"):
        watching(watching(runner))

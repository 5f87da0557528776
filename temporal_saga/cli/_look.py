"""The work list: workflows with sagas that somebody should look at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from temporalio.api.workflowservice.v1 import ListWorkflowExecutionsRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from ._connect import Problem, explained
from ._fetch import fetch
from ._story import Step, Story

__all__ = ["KINDS", "Found", "Kind", "Search", "kinds_of", "look"]

Kind = Literal["parked", "stuck", "incomplete", "unwinding"]
KINDS: tuple[Kind, ...] = ("parked", "stuck", "incomplete", "unwinding")

_AT_ONCE = 8
_MANY_FAILURES = 3
# With `workflow_failure_exception_types` these close a workflow at once, before any of its code runs.
_WITHOUT_AN_UNWIND = ("NondeterminismError",)
_OPEN = "CloseTime IS NULL"


@dataclass(frozen=True)
class Search:
    """The settings of a search.

    Attributes:
        kinds: The kinds of trouble.
        query: A filter that is added to each query of the server.
        since: How far back to look at workflows that have ended.
        most: After so many histories, begin to read no other workflow.
        by_looking: Whether to read histories even if the search attribute is registered.
        attribute: The search attribute that the plugin sets.
    """

    kinds: frozenset[Kind]
    query: str | None
    since: timedelta
    most: int
    by_looking: bool
    attribute: str = "SagaState"


@dataclass
class Found:
    """The result of a search.

    Attributes:
        stories: The workflows, the most urgent first.
        looked_at: How many histories were read: a workflow may have several runs.
        left_out: Whether workflows were left out because of the limit.
        has_attribute: Whether the search attribute is registered.
        problems: The histories that could not be read.
    """

    stories: list[tuple[list[Kind], Story]] = field(default_factory=list[tuple[list[Kind], Story]])
    looked_at: int = 0
    left_out: bool = False
    has_attribute: bool = False
    problems: list[str] = field(default_factory=list[str])


def kinds_of(story: Story) -> list[Kind]:
    """Say what is wrong with a story, if anything is."""
    kinds: list[Kind] = []
    undos = [step for step in story.steps if step.undo_state is not None]
    if story.state == "PARKED" or story.may_be_parked:
        kinds.append("parked")
    if _fails(story, undos) or (story.state == "STUCK" and story.standing):
        kinds.append("stuck")
    has_failed = story.state == "OPEN" and any(step.undo_state in ("FAILED", "GIVEN_UP") for step in undos)
    unseen = story.state == "FAILED" and story.error in _WITHOUT_AN_UNWIND and story.standing
    if has_failed or unseen or story.state == "INCOMPLETE" or (story.state == "CUT_OFF" and story.standing):
        kinds.append("incomplete")
    if story.state == "UNWINDING":
        kinds.append("unwinding")
    return kinds


def _fails(story: Story, undos: list[Step]) -> bool:
    """Tell whether an undo keeps failing: an activity, or something in a child workflow."""
    running = [step.last for step in undos if step.undo_state == "RUNNING" and step.last]
    pending = [call.pending for call in running if call.pending]
    executions = {call.child for call in running}
    for child in story.children:
        if executions.intersection(child.executions):
            if child.trouble is not None:
                return True
            pending += [*child.failing, *(step.last.pending for step in child.steps if step.last and step.last.pending)]
    return any(each.failures >= _MANY_FAILURES for each in pending)


async def look(client: Client, search: Search, now: datetime, progress: Callable[[str], object]) -> Found:
    """Look for workflows.

    Raises:
        Problem: If the server does not answer.
    """
    found = Found()
    async with explained(client, f"the workflows that match {search.query!r}" if search.query else "workflows"):
        found.has_attribute = await _understands(client, f'{search.attribute} = "PARKED"')
        queries = await _queries(client, search, found.has_attribute, now)
        candidates: dict[tuple[str, str], None] = {}
        async for execution in _executions(client, [_both(query, search.query) for query in queries]):
            if len(candidates) >= search.most:
                found.left_out = True
                break
            candidates[execution] = None
            progress(f"{len(candidates)} workflows to look at")
    seen: set[tuple[str, str]] = set()
    places = asyncio.Semaphore(_AT_ONCE)

    def count() -> None:
        found.looked_at += 1
        progress(f"read {found.looked_at} histories of {len(candidates)} workflows, found {len(found.stories)}")

    async def read(workflow_id: str, run_id: str) -> None:
        async with places:
            if (workflow_id, run_id) in seen:
                return  # it was read with another run of the workflow
            if found.looked_at >= search.most:
                found.left_out = True
                return
            try:
                story = await fetch(
                    client, workflow_id, run_id, children="undos", attribute=search.attribute, on_read=count
                )
            except Exception as error:  # one history that we cannot read must not hide the others
                fault = f"workflow {workflow_id!r}: a fault in temporal-saga: {type(error).__name__}"
                found.problems.append(str(error) if isinstance(error, Problem) else fault)
                return
        kinds: list[Kind] = [kind for kind in kinds_of(story) if kind in search.kinds]
        # If a run was reset or continued, the story is that of the latest run.
        if kinds and (story.workflow_id, story.run_id) not in seen:
            found.stories.append((kinds, story))
        seen.update((story.workflow_id, each) for each in story.runs)

    await asyncio.gather(*[read(*execution) for execution in candidates])
    found.stories.sort(key=lambda each: (KINDS.index(each[0][0]), each[1].started, each[1].workflow_id))
    return found


async def _queries(client: Client, search: Search, has_attribute: bool, now: datetime) -> list[str]:
    """Return queries that find everything that is looked for, and as little else as possible."""
    wants_open = search.kinds & {"parked", "stuck", "unwinding"}
    ended = f'CloseTime > "{(now - search.since).isoformat()}"'
    queries: list[str] = []
    if not has_attribute or search.by_looking:
        queries.append(_OPEN)  # an open workflow may be incomplete already
        if "incomplete" in search.kinds:
            queries.append(f'ExecutionStatus IN ("Failed", "Canceled", "Terminated", "TimedOut") AND {ended}')
        return queries
    if wants_open:
        queries.append(f'{_OPEN} AND {search.attribute} IN ("PARKED", "UNWINDING")')
    if "stuck" in search.kinds:
        # The server marks a run after its workflow task has failed a few times. An older server has no such mark.
        marked = f"{_OPEN} AND TemporalReportedProblems IS NOT NULL"
        queries.append(marked if await _understands(client, marked) else _OPEN)
    if "incomplete" in search.kinds:
        queries.append(f'{search.attribute} = "INCOMPLETE" AND ({_OPEN} OR {ended})')
        # A run that the server closes sets no attribute any more, and may never have had one.
        queries.append(f'ExecutionStatus IN ("Terminated", "TimedOut") AND {ended}')
    return queries


def _both(query: str, other: str | None) -> str:
    return f"({query}) AND ({other})" if other else query


async def _understands(client: Client, query: str) -> bool:
    """Tell whether the server can answer a query: it refuses one with an attribute that is not registered."""
    try:
        await client.count_workflows(query)
    except RPCError as error:
        if error.status is RPCStatusCode.INVALID_ARGUMENT:
            return False
        raise
    return True


async def _executions(client: Client, queries: list[str]) -> AsyncIterator[tuple[str, str]]:
    seen: set[tuple[str, str]] = set()
    for query in queries:
        # Not the SDK's `list_workflows()`: temporalio 1.35 raises ValueError at a paused workflow.
        request = ListWorkflowExecutionsRequest(namespace=client.namespace, query=query)
        while True:
            page = await client.workflow_service.list_workflow_executions(request)
            for found in page.executions:
                execution = (found.execution.workflow_id, found.execution.run_id)
                if execution not in seen:
                    seen.add(execution)
                    yield execution
            if not page.next_page_token:
                break
            request.next_page_token = page.next_page_token

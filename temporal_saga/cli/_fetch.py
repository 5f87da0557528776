"""Fetching what a story is made of: the runs of a workflow, those of its children, and the saga's own report."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal, cast

from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import DescribeWorkflowExecutionRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from ._connect import Problem, explained
from ._history import Run, read, read_description
from ._story import Story, tell

__all__ = ["fetch"]

_MOST_RUNS = 100
_MOST_LEVELS = 6
_QUERY_PATIENCE = timedelta(seconds=3)


async def fetch(
    client: Client,
    workflow_id: str,
    run_id: str | None = None,
    *,
    children: Literal["all", "undos"] = "all",
    attribute: str = "SagaState",
    progress: Callable[[str], object] = lambda _: None,
    on_read: Callable[[], object] = lambda: None,
) -> Story:
    """Fetch the story of a workflow.

    Args:
        client: The client.
        workflow_id: The workflow's id.
        run_id: The run; None for the latest.
        children: Which children to read too: all, or those that are undoing something now.
        attribute: The search attribute that the plugin sets.
        progress: Called with what is being done.
        on_read: Called for each history that is read: of each run, and of its children.

    Raises:
        Problem: If there is no such workflow, or the server does not answer.
    """
    return await _Fetcher(client, children, attribute, progress, on_read).story(workflow_id, run_id, level=0)


class _Fetcher:
    def __init__(
        self,
        client: Client,
        children: Literal["all", "undos"],
        attribute: str,
        progress: Callable[[str], object],
        on_read: Callable[[], object],
    ) -> None:
        self._client = client
        self._children = children
        self._attribute = attribute
        self._progress = progress
        self._on_read = on_read
        self._read = 0

    async def story(self, workflow_id: str, run_id: str | None, level: int) -> Story:
        notes: list[str] = []
        runs = await self._lineage(workflow_id, run_id, notes)
        children: list[Story] = []
        calls = [call for run in runs for call in run.calls]
        if self._children == "undos":
            found = [call.child for call in calls if call.child and call.phase != "do" and call.end == "RUNNING"]
        else:
            found = [call.child for call in calls if call.child] + [child for run in runs for child in run.children]
        for id, first in dict.fromkeys(found):
            if level >= _MOST_LEVELS or self._read >= _MOST_RUNS:
                notes.append(f"Child workflow {id} was not looked at: see `temporal-saga show` of its id.")
                continue
            try:
                child = await self.story(id, first, level + 1)
            except Exception as error:  # what is known of its parent is told all the same
                why = str(error) if isinstance(error, Problem) else type(error).__name__
                notes.append(f"Child workflow {id} cannot be read: {why}.")
                continue
            if child.steps or child.children or child.trouble or child.failing:
                children.append(child)
        story = tell(runs, children=children, notes=notes)
        if _has_more_to_say(story):
            reports = await self._reports(story)
            if reports is not None:
                return tell(runs, reports=reports, children=children, notes=notes)
            story.notes.append("No worker answered the query saga_report: this account is from the history alone.")
        return story

    async def _lineage(self, workflow_id: str, run_id: str | None, notes: list[str]) -> list[Run]:
        """Return the runs that belong together, oldest first."""
        async with explained(self._client, f"workflow {workflow_id!r}"):
            runs = [await self._run(workflow_id, run_id)]
        seen = {runs[0].run_id}

        async def add(id: str | None, place: int) -> bool:
            if id is None or id in seen:
                return False
            seen.add(id)
            if self._read >= _MOST_RUNS:
                notes.append(f"Only {_MOST_RUNS} runs were read: older or newer ones are missing.")
                return False
            try:
                runs.insert(place, await self._run(workflow_id, id))
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
                notes.append(f"Run {id} is not there anymore: what it did is missing.")
                return False
            return True

        async with explained(self._client, f"workflow {workflow_id!r}"):
            while await add(runs[-1].next or runs[-1].reset_to, len(runs)):
                pass
            # Backwards: the run that it was reset from, and the one that it continues.
            at = len(runs) - 1
            while at >= 0:
                added = await add(runs[at].reset_from, at) or await add(runs[at].continues, at)
                at = at if added else at - 1
        return runs

    async def _run(self, workflow_id: str, run_id: str | None) -> Run:
        self._read += 1
        self._on_read()
        self._progress(f"reading {workflow_id}")
        # Describe first, then read the history, which can only have more by then.
        # Not the SDK's `describe()`: temporalio 1.35 raises ValueError for a paused workflow, whose status it lacks.
        described = await self._client.workflow_service.describe_workflow_execution(
            DescribeWorkflowExecutionRequest(
                namespace=self._client.namespace,
                execution=WorkflowExecution(workflow_id=workflow_id, run_id=run_id or ""),
            )
        )
        now, run_id = read_description(described, self._attribute), described.workflow_execution_info.execution.run_id
        handle = self._client.get_workflow_handle(workflow_id, run_id=run_id)
        events = [event async for event in handle.fetch_history_events()]
        return read(events, now, workflow_id=workflow_id, run_id=run_id)

    async def _reports(self, story: Story) -> list[dict[str, Any]] | None:
        """Ask the workflow itself. Return None if no worker answers."""
        self._progress("asking the workflow")
        handle = self._client.get_workflow_handle(story.workflow_id, run_id=story.run_id)
        try:
            asked = handle.query("saga_report", rpc_timeout=_QUERY_PATIENCE)
            answer: object = await asyncio.wait_for(asked, _QUERY_PATIENCE.total_seconds() + 1)
        except Exception:
            return None  # no worker, a worker that cannot, or an answer that is encoded
        if not isinstance(answer, list):
            return None
        reports = cast("list[object]", answer)
        return [cast("dict[str, Any]", each) for each in reports if isinstance(each, dict)]


def _has_more_to_say(story: Story) -> bool:
    """Tell whether the saga itself may know more than the history: what is armed, and what is parked."""
    if story.status != "RUNNING" or story.trouble is not None:
        return False
    return story.state in ("UNWINDING", "PARKED") or any(
        call.end not in ("RUNNING", "COMPLETED") for step in story.steps for call in step.calls
    )

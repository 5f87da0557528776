"""The operator: finds what is parked in the list of workflows, and decides, by a seeded script."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random
from typing import Any

from temporalio.client import (
    Client,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
)
from temporalio.service import RPCError

from examples.money_transfer.activities import Bank
from examples.money_transfer.models import Transfer
from temporal_saga.testing import step_environment

from .faults import healed
from .processes import ATTRIBUTE

_AWAY = (
    RPCError,
    WorkflowQueryFailedError,
    WorkflowQueryRejectedError,
    WorkflowUpdateFailedError,
    WorkflowUpdateRPCTimeoutOrCancelledError,
    asyncio.TimeoutError,
)


class Operator:
    """Decides about what is parked, until it is cancelled."""

    def __init__(self, client: Client, bank: Bank, directory: str, seed: str, transfers: dict[str, Transfer]) -> None:
        self._client = client
        self._bank = bank
        self._directory = directory
        self._seed = seed
        self._transfers = transfers
        self._decided: Counter[tuple[str, str, bool]] = Counter()

    @property
    def decisions(self) -> int:
        """How many decisions were taken."""
        return sum(self._decided.values())

    async def run(self) -> None:
        while True:
            try:
                parked = [each.id async for each in self._client.list_workflows(f'{ATTRIBUTE} = "PARKED"')]
                await asyncio.gather(*[self._look(id) for id in parked])
            except RPCError:
                pass  # the server is away
            await asyncio.sleep(0.5)

    async def _look(self, id: str) -> None:
        handle = self._client.get_workflow_handle(id)
        try:
            for report in await asyncio.wait_for(handle.query("saga_report"), 10):
                for step in report["steps"]:
                    if "PARKED" in (step["state"], step["undo_state"]):
                        await asyncio.wait_for(self._decide(handle, step), 15)
        except _AWAY:
            pass  # it is still parked, or somebody was faster: seen in the next round

    async def _decide(self, handle: Any, step: dict[str, Any]) -> None:
        is_undo = step["undo_state"] == "PARKED"
        which = (handle.id, step["name"], is_undo)
        number = self._decided[which]
        action = action_of(self._seed, *which, number)
        if action == "heal":
            healed(self._directory, handle.id, step["undo"] if is_undo else step["name"]).touch()
        if action == "done_by_hand":
            # With the fence: the step may be on its way still.
            environment = step_environment(step["name"], phase="undo", key=step["key"])
            undo = getattr(self._bank, step["undo"])
            await asyncio.to_thread(environment.run, undo, self._transfers[handle.id])
        taken = "retry" if action == "heal" else action
        who_and_why = ("the operator", f"decision {number} of the script")
        # The same id each time: the answer to the first try may have been lost.
        update_id = "-".join(map(str, (*which, number)))
        await handle.execute_update("saga_resolve", args=[step["key"], taken, *who_and_why], id=update_id)
        self._decided[which] += 1


def action_of(seed: str, workflow_id: str, step: str, is_undo: bool, number: int) -> str:
    """Return the nth decision on something: "heal" is a retry that will not be refused."""
    random = Random(f"{seed}/{workflow_id}/{step}/{is_undo}/{number}")
    choices = {"retry": 20, "heal": 45, "done_by_hand": 20 if is_undo else 0, "give_up": 15}
    (action,) = random.choices(list(choices), list(choices.values()))
    return action

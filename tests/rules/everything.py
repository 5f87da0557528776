"""A workflow that uses every part of the library. Alone in its module: the sandbox imports that anew."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError

from temporal_saga import Compensation, Saga

OPTIONS: workflow.ActivityConfig = {"start_to_close_timeout": timedelta(seconds=10)}


@workflow.defn
class Everything:
    """Uses every part, and fails at the end."""

    @workflow.run
    async def run(self) -> None:
        async with Saga("order", activity_options=OPTIONS, deadline=timedelta(minutes=1)) as saga:
            await saga.execute_activity("reserve", 1, compensation="undo_reserve")
            saga.add_compensation("undo_by_hand", args=[1, 2])
            saga.add_callback(asyncio.sleep, 1)
            async with saga.savepoint() as attempt:
                await asyncio.gather(
                    *[
                        attempt.execute_activity("pick", item, key=item, compensation="undo_pick")
                        for item in ("x", "y", "z")
                    ]
                )
            try:
                await saga.execute_activity("card1", compensation="undo_card1")
            except ActivityError:
                await saga.execute_child_workflow("Card2", compensation=Compensation.child_workflow("UndoCard2"))
            await saga.execute_activity("ship", compensation="undo_ship")

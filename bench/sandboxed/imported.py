"""By hand, next to an import of the library that nothing passes through."""

from datetime import timedelta

from temporalio import workflow

import temporal_saga  # noqa: F401


@workflow.defn
class Imported:
    @workflow.run
    async def run(self, steps: int) -> None:
        for number in range(steps):
            await workflow.execute_activity("work", number, start_to_close_timeout=timedelta(seconds=30))

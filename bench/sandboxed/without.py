"""By hand, without the library."""

from datetime import timedelta

from temporalio import workflow


@workflow.defn
class Without:
    @workflow.run
    async def run(self, steps: int) -> None:
        for number in range(steps):
            await workflow.execute_activity("work", number, start_to_close_timeout=timedelta(seconds=30))

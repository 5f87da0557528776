"""With a saga, and an import of the library that nothing passes through."""

from datetime import timedelta

from temporalio import workflow

from temporal_saga import Saga


@workflow.defn
class WithSaga:
    @workflow.run
    async def run(self, steps: int) -> None:
        async with Saga() as saga:
            for number in range(steps):
                await saga.execute_activity(
                    "work", number, compensation="undo", start_to_close_timeout=timedelta(seconds=30)
                )

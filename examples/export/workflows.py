"""The export: write the pages, then publish them."""

from __future__ import annotations

from datetime import timedelta

from temporalio import workflow

from temporal_saga import Saga, presets

with workflow.unsafe.imports_passed_through():
    from .activities import Exporter
    from .models import Export

# So long it takes to notice that a worker has died. A page has to take less.
HEARTBEAT = timedelta(seconds=3)


@workflow.defn
class ExportWorkflow:
    """An export is published whole, or nothing is left of it."""

    @workflow.run
    async def run(self, export: Export) -> str:
        """Returns the folder."""
        async with Saga("export", activity_options=presets.standard()) as saga:
            # One attempt may take 8 hours, and all of them a day. A lost worker is noticed by its heartbeat.
            folder = await saga.execute_activity_method(
                Exporter.write_pages,
                export,
                compensation=Exporter.remove_pages,
                heartbeat_timeout=HEARTBEAT,
                **presets.standard(
                    start_to_close_timeout=timedelta(hours=8), schedule_to_close_timeout=timedelta(hours=24)
                ),
            )
            saga.pivot()
            await saga.execute_activity_method(Exporter.publish, args=[export, folder], **presets.forward_only())
        return folder

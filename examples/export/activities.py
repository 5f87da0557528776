"""The steps of an export and what undoes them, on a directory that the workers share.

The step's key names the export's folder, so that the undo finds what there is of it, whole or half.
"""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

from temporalio import activity

from temporal_saga import Declined, current_step

from .models import Export


class Exporter:
    """The activities, as methods."""

    def __init__(self, directory: Path) -> None:
        """Keeps the directory."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.activities: list[Callable[..., object]] = [self.write_pages, self.remove_pages, self.publish]

    @activity.defn
    async def write_pages(self, export: Export) -> str:
        """Writes all pages, and returns the folder. A later attempt continues after the last page in a heartbeat."""
        folder = self.directory / current_step().key
        folder.mkdir(exist_ok=True)
        details = activity.info().heartbeat_details
        first = int(details[0]) if details else 0
        self._log(f"{export.name}: attempt {activity.info().attempt} begins at page {first}")
        for page in range(first, export.pages):
            if self._is_removed(folder):
                shutil.rmtree(folder, ignore_errors=True)
                raise Declined("the export was removed before this attempt came")
            # A page may be written twice: heartbeats are throttled, so that the server may have heard of fewer.
            (folder / f"{page:06}.csv").write_text(f"{export.name},{page}\n")
            # With the heartbeat comes a cancel, as a CancelledError in the sleep.
            activity.heartbeat(page + 1)
            await asyncio.sleep(export.seconds_a_page)
        return folder.name

    @activity.defn
    async def remove_pages(self, export: Export) -> None:
        """Undoes `write_pages`, whole or half. A mark keeps an attempt that comes later from writing on."""
        folder = self.directory / (current_step().forward_key or "")
        folder.with_suffix(".removed").touch()
        shutil.rmtree(folder, ignore_errors=True)
        self._log(f"{export.name}: removed")

    @activity.defn
    async def publish(self, export: Export, folder: str) -> None:
        """Gives the folder its name. Nothing undoes it: somebody may have read it."""
        (self.directory / f"{export.name}.published").write_text(folder)
        self._log(f"{export.name}: published")

    def pages(self) -> int:
        """How many pages there are, of all exports."""
        return len(list(self.directory.glob("*/*.csv")))

    def log(self) -> list[str]:
        """What was done."""
        path = self.directory / "log"
        return path.read_text().splitlines() if path.exists() else []

    def _is_removed(self, folder: Path) -> bool:
        return folder.with_suffix(".removed").exists()

    def _log(self, line: str) -> None:
        with (self.directory / "log").open("a") as log:
            log.write(f"{line}\n")

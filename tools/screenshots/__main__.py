"""Makes the screenshots of the docs anew, in `docs/_static`: python -m tools.screenshots, or `make screenshots`.

It needs Chromium (`apt install chromium`). A dev server with its Web UI and a worker run
meanwhile, and the command line writes the page.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

from temporalio.client import Client
from temporalio.worker import Worker
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from examples.dev_server import dev_server, free_port
from temporal_saga.plugin import SagaPlugin

from .browser import Browser, Scheme
from .png import with_few_colors
from .trips import ACTIVITIES, PARKED, TRIPS, BookTrip

HERE = Path(__file__).parents[2] / "docs" / "_static"
FILTER = 'SagaState = "PARKED"'
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
MOST_BYTES = 120_000


async def live(client: Client) -> None:
    """Bring the trips to where they are shown."""
    for id, trip in TRIPS.items():
        await client.start_workflow(BookTrip.run, trip, id=id, task_queue="trips")
        await asyncio.sleep(1)  # so that the list has them in this order
    for _ in range(100):
        if (await client.count_workflows(FILTER)).count == len(PARKED):
            return
        await asyncio.sleep(0.3)
    raise SystemExit("the trips do not park")


async def write_page(address: str, page: Path) -> None:
    """Have the command line write the page of a parked trip."""
    command = ("-m", "temporal_saga", "show", PARKED[0], "--address", address, "--html", str(page))
    process = await asyncio.create_subprocess_exec(sys.executable, *command)
    if await process.wait():
        raise SystemExit("the command line has failed")


def shoot(browser: Browser, ui: str, run_id: str, page: Path, scheme: Scheme) -> None:
    """Take all pictures in one of the two color schemes."""
    workflows = f"{ui}/namespaces/default/workflows"
    browser.open(page.as_uri(), size=(1000, 765), scheme=scheme, until="As of")
    keep(browser, f"show-html-{scheme}")
    browser.open(f"{workflows}?query={quote(FILTER)}", size=(1200, 450), scheme=scheme, until=PARKED[1])
    keep(browser, f"ui-list-{scheme}")
    of_one = f"{workflows}/{PARKED[0]}/{run_id}"
    browser.open(f"{of_one}/user-metadata", size=(1200, 860), scheme=scheme, until="waits for a person")
    keep(browser, f"ui-details-{scheme}", below="Current Details")
    browser.open(f"{of_one}/timeline", size=(1200, 1100), scheme=scheme, until="undo charge")
    keep(browser, f"ui-timeline-{scheme}", below="Timeline")


def keep(browser: Browser, name: str, below: str | None = None) -> None:
    """Keep what the page looks like, or only its part from a heading on."""
    file = HERE / f"{name}.png"
    file.write_bytes(with_few_colors(browser.picture(below)))
    size = file.stat().st_size
    print(f"{file.name}: {size:,} bytes", flush=True)
    if size > MOST_BYTES:
        raise SystemExit(f"{file.name} has more than {MOST_BYTES:,} bytes")


async def main(command: str) -> None:
    logging.getLogger("temporalio.activity").setLevel(logging.CRITICAL)
    ui_port = free_port()
    plugin = SagaPlugin(search_attribute="SagaState")
    passed = SandboxRestrictions.default.with_passthrough_modules("tools")
    runner = SandboxedWorkflowRunner(restrictions=passed)

    def shoot_all(run_id: str, page: Path) -> None:
        with Browser(command) as browser:
            for scheme in SCHEMES:
                shoot(browser, f"http://127.0.0.1:{ui_port}", run_id, page, scheme)

    with tempfile.TemporaryDirectory(prefix="temporal-saga-screenshots-") as folder:
        page = Path(folder) / "page.html"
        async with dev_server(
            ui_port=ui_port, plugins=[plugin], extra_args=["--search-attribute", "SagaState=Keyword"]
        ) as env:
            client = env.client
            async with Worker(
                client, task_queue="trips", workflows=[BookTrip], activities=ACTIVITIES, workflow_runner=runner
            ):
                await live(client)
                await write_page(client.service_client.config.target_host, page)
                run_id = (await client.get_workflow_handle(PARKED[0]).describe()).run_id
                await asyncio.to_thread(shoot_all, run_id, page)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tools.screenshots", description=__doc__)
    parser.add_argument("--chromium", default="chromium", help="the command that starts the browser")
    asyncio.run(main(parser.parse_args().chromium))

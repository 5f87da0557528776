"""Tells of a purchase that is approved, one that is rejected, one that is cancelled, and one that nobody answers."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sysconfig
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import uvicorn
from temporalio.client import Client, WorkflowFailureError, WorkflowHandle
from temporalio.common import WorkflowIDReusePolicy
from temporalio.envconfig import ClientConfig
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from temporal_saga.plugin import SagaPlugin

from .activities import Desk
from .models import Answer, Purchase, Status
from .webhook import webhook
from .workflows import Buy

QUEUE = "purchases"


async def connect() -> Client:
    """Connects to the server that the environment names (`TEMPORAL_ADDRESS` and the like)."""
    config = ClientConfig.load_client_connect_config()
    config.setdefault("target_host", "localhost:7233")
    return await Client.connect(**config, plugins=[SagaPlugin(classify=True)])


@asynccontextmanager
async def server() -> AsyncGenerator[Client]:
    """The server that TEMPORAL_ADDRESS names; else one that runs as long as the story."""
    if os.environ.get("TEMPORAL_ADDRESS"):
        yield await connect()
        return
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    cli = os.environ.get("TEMPORAL_CLI") or shutil.which("temporal", path=path)  # if None, the SDK downloads one
    async with await WorkflowEnvironment.start_local(
        dev_server_existing_path=cli, dev_server_log_level="error", plugins=[SagaPlugin(classify=True)]
    ) as env:
        yield env.client


@asynccontextmanager
async def working(client: Client, desk: Desk, queue: str = QUEUE) -> AsyncGenerator[None]:
    """A worker. The activities block: they run in threads."""
    with ThreadPoolExecutor() as threads:
        async with Worker(
            client, task_queue=queue, workflows=[Buy], activities=desk.activities, activity_executor=threads
        ):
            yield


@asynccontextmanager
async def serving(client: Client, desk: Desk, port: int = 0) -> AsyncGenerator[str]:
    """The webhook, on a free port if none is given. Yields its address."""
    http = uvicorn.Server(uvicorn.Config(webhook(client, desk), port=port, log_level="warning"))
    task = asyncio.create_task(http.serve())
    while not http.started:
        if task.done():
            await task  # the port is taken
        await asyncio.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{http.servers[0].sockets[0].getsockname()[1]}"
    finally:
        http.should_exit = True
        await task


def post(url: str, answer: dict[str, object]) -> tuple[int, str]:
    """What finance's system does: a POST, and a look at the answer."""
    request = urllib.request.Request(url, json.dumps(answer).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def start(client: Client, purchase: Purchase, queue: str = QUEUE) -> WorkflowHandle[Buy, Status]:
    """Asks for a purchase, once for each id."""
    return await client.start_workflow(
        Buy.run,
        purchase,
        id=f"{queue}-{purchase.id}",
        task_queue=queue,
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
    )


async def decide(handle: WorkflowHandle[Buy, Status], answer: Answer) -> None:
    """Sends the manager's answer."""
    await handle.execute_update("decide", answer)  # pyright: ignore[reportUnknownMemberType]


async def ticket_of(desk: Desk) -> str:
    """Waits for a ticket that is open."""
    while not (tickets := desk.open_tickets()):  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    return tickets[0]


async def tell() -> None:
    """The story."""
    desk, queue = Desk(), f"{QUEUE}-{uuid4().hex[:6]}"
    async with server() as client, working(client, desk, queue), serving(client, desk) as address:

        async def tell_of(name: str, **options: float) -> tuple[WorkflowHandle[Buy, Status], str]:
            print(f"{name.capitalize()}. Ann, the manager, approves; finance gets a ticket.")
            handle = await start(client, Purchase(name, "anvils", "a forge", 1200_00, **options), queue)
            await decide(handle, Answer(True, "ann"))
            return handle, await ticket_of(desk)

        async def finance_says(ticket: str, approved: bool) -> None:
            url = f"{address}/tickets/{ticket}"
            status, text = await asyncio.to_thread(post, url, {"approved": approved, "by": "eve"})
            print(f"  finance says {'yes' if approved else 'no'}: HTTP {status} {text}")

        def show(result: object) -> None:
            ((left,),) = desk.rows("SELECT remaining FROM budgets")
            print(f"  {result}\n  the budget has {left}")

        handle, ticket = await tell_of("first")
        await finance_says(ticket, True)
        show(await handle.result())
        await finance_says(ticket, True)

        handle, ticket = await tell_of("second")
        await finance_says(ticket, False)
        show(await handle.result())

        handle, ticket = await tell_of("third")
        await handle.cancel()
        try:
            await handle.result()
        except WorkflowFailureError as error:
            show(f"ended: {error.cause}")
        await finance_says(ticket, True)

        handle, ticket = await tell_of("fourth", remind_after=1, give_up_after=3)  # seconds, for days
        show(await handle.result())
        print("Tickets:", *desk.rows("SELECT purchase, state, who, 'asked', asked FROM tickets"), sep="\n  ")
    desk.close()


async def work(database: str) -> None:
    """Works until it is stopped."""
    desk = Desk(database)
    async with working(await connect(), desk):
        print(f"working on task queue {QUEUE}, database {database}", flush=True)
        await asyncio.Event().wait()


async def serve(database: str, port: int) -> None:
    """Serves the webhook until it is stopped."""
    desk = Desk(database)
    async with serving(await connect(), desk, port) as address:
        print(f"POST {address}/tickets/ID. Open: {', '.join(desk.open_tickets()) or 'none'}", flush=True)
        await asyncio.Event().wait()


async def command(options: argparse.Namespace) -> None:
    """Does what the command line asks."""
    client = await connect()
    handle: WorkflowHandle[Buy, Status] = client.get_workflow_handle(f"{QUEUE}-{options.id}", result_type=Status)
    if options.command == "start":
        handle = await start(client, Purchase(options.id, "anvils", options.item, options.amount))
        print(f"started {handle.id}")
        return
    if options.command == "cancel":
        await handle.cancel()
    elif options.command != "status":
        await decide(handle, Answer(options.command == "approve", options.by))
    print(await handle.query(Buy.status))


def run(program: Coroutine[Any, Any, None]) -> None:
    """Runs a program, and gives the SDK's threads time to come to rest: else the interpreter may crash at its end."""

    async def rested() -> None:
        try:
            await program
        finally:
            await asyncio.sleep(0.3)  # github.com/temporalio/sdk-python/issues/300

    asyncio.run(rested())


def main() -> None:
    """Reads the command line. Without a command it tells the story."""
    parser = argparse.ArgumentParser(
        description=f"{__doc__} Without a command: tells the story, with a server, a worker and a webhook of its own."
    )
    commands = parser.add_subparsers(dest="command")
    worker, hook = commands.add_parser("worker", help="run a worker"), commands.add_parser("webhook", help="serve it")
    for each in (worker, hook):
        each.add_argument("--db", default="purchases.sqlite3")
    hook.add_argument("--port", type=int, default=8765)
    of = {name: commands.add_parser(name) for name in ("start", "approve", "reject", "cancel", "status")}
    for each in of.values():
        each.add_argument("id", help="the purchase's number")
    of["start"].add_argument("item")
    of["start"].add_argument("amount", type=int, help="in cents")
    for name in ("approve", "reject"):
        of[name].add_argument("--by", required=True, help="the manager's name")
    options = parser.parse_args()
    if options.command is None:
        run(tell())
    elif options.command == "worker":
        run(work(options.db))
    elif options.command == "webhook":
        run(serve(options.db, options.port))
    else:
        run(command(options))


if __name__ == "__main__":
    main()

"""Tells of a user who comes, one who does not, and one who thinks better of it."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sysconfig
from collections.abc import AsyncGenerator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from temporalio.client import Client, WorkflowHandle
from temporalio.common import WorkflowIDReusePolicy
from temporalio.envconfig import ClientConfig
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from temporal_saga.plugin import SagaPlugin

from .activities import Office
from .models import Signup, Status
from .workflows import Onboarding

QUEUE = "onboarding"


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
async def working(client: Client, office: Office, queue: str = QUEUE) -> AsyncGenerator[None]:
    """A worker. The activities block: they run in threads."""
    with ThreadPoolExecutor() as threads:
        async with Worker(
            client, task_queue=queue, workflows=[Onboarding], activities=office.activities, activity_executor=threads
        ):
            yield


async def start(client: Client, signup: Signup, queue: str = QUEUE) -> WorkflowHandle[Onboarding, Status]:
    """Signs a user up. Who has been here may come again; who is here may not."""
    return await client.start_workflow(
        Onboarding.run,
        signup,
        id=f"{queue}-{signup.email}",
        task_queue=queue,
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
    )


async def tell() -> None:
    """The story."""
    office, queue = Office(), f"{QUEUE}-{uuid4().hex[:6]}"
    async with server() as client, working(client, office, queue):
        handle = await start(client, Signup("ann@example.com", "anvils"), queue)
        await handle.signal(Onboarding.verified)
        await handle.signal(Onboarding.signed_in)
        show("Ann comes", await handle.result(), office)

        # A week takes two seconds here.
        handle = await start(client, Signup("bob@example.com", "bolts", remind_after=1, give_up_after=2), queue)
        show("Bob never answers", await handle.result(), office)

        handle = await start(client, Signup("cyd@example.com", "cogs"), queue)
        await handle.signal(Onboarding.verified)
        while (await handle.query(Onboarding.status)).step != "wait_for_sign_in":  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        print(f"Cyd has {', '.join((await handle.query(Onboarding.status)).completed)}")
        await handle.signal(Onboarding.cancel_signup)
        show("Cyd thinks better of it", await handle.result(), office)
        print("\nMails:", *office.mails(), sep="\n  ")
    office.close()


def show(what: str, status: Status, office: Office) -> None:
    """Prints how one ended, and what is there now."""
    there = ", ".join(f"{office.count(table)} {table}" for table in ("accounts", "workspaces", "roles"))
    print(f"{what}: {status.state.value}. There are {there}.")


async def work(database: str) -> None:
    """Works until it is stopped."""
    office = Office(database)
    async with working(await connect(), office):
        print(f"working on task queue {QUEUE}, database {database}", flush=True)
        await asyncio.Event().wait()


async def command(options: argparse.Namespace) -> None:
    """Does what the command line asks."""
    client = await connect()
    handle: WorkflowHandle[Onboarding, Status] = client.get_workflow_handle(
        f"{QUEUE}-{options.email}", result_type=Status
    )
    if options.command == "start":
        handle = await start(client, Signup(options.email, options.team))
        print(f"started {handle.id}")
    elif options.command == "status":
        print(await handle.query(Onboarding.status))
    else:
        signal = {"verify": "verified", "sign-in": "signed_in", "cancel": "cancel_signup"}[options.command]
        await handle.signal(signal)
        print(await handle.query(Onboarding.status))


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
        description=f"{__doc__} Without a command: tells the story, with a server and a worker of its own."
    )
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("worker", help="run a worker").add_argument("--db", default="onboarding.sqlite3")
    begin = commands.add_parser("start", help="sign a user up")
    begin.add_argument("email")
    begin.add_argument("team")
    for name in ("verify", "sign-in", "cancel", "status"):
        commands.add_parser(name, help=f"{name} an onboarding").add_argument("email")
    options = parser.parse_args()
    if options.command is None:
        run(tell())
    elif options.command == "worker":
        run(work(options.db))
    else:
        run(command(options))


if __name__ == "__main__":
    main()

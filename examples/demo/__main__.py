"""Tells the stories: `python -m examples.demo`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO
from uuid import uuid4

from examples._run import run_program
from examples.demo.stage import Stage
from examples.demo.stories import STORIES
from examples.demo.terminal import Terminal
from examples.demo.verdict import Verdicts
from examples.dev_server import DevServerError, dev_server, find_cli, free_port

logger = logging.getLogger(__name__)


async def run(numbers: Sequence[int], *, keep: bool) -> int:
    """Tells the stories of these numbers, and returns the exit code."""
    attached = bool(os.environ.get("TEMPORAL_ADDRESS"))
    if not attached:
        await asyncio.to_thread(find_cli)  # may download one, and says so: before the output goes
    ui_port = free_port(8233)
    verdicts = Verdicts()
    with workspace(verdicts) as folder, ThreadPoolExecutor(100) as threads, output_to(folder / "log.txt") as stream:
        terminal = Terminal(stream)
        terminal.heading("Sagas on Temporal: what a ledger says afterwards")
        terminal.progress("connecting to the server" if attached else "starting a server")
        async with dev_server(ui_port=ui_port) as env:
            stage = Stage(env.client, folder, uuid4().hex[:4], threads, tidy=attached)
            async with stage.open:
                for number in numbers:
                    await tell(number, stage, terminal, verdicts)
                summary(terminal, verdicts)
                look_around(terminal, stage, None if attached else ui_port, keep=keep)
                if keep:
                    await interrupted()
    return verdicts.exit_code


async def tell(number: int, stage: Stage, terminal: Terminal, verdicts: Verdicts) -> None:
    """Tells one story."""
    story = STORIES[number - 1]
    terminal.heading(f"{number}   {story.title}")
    try:
        saga, textbook = await story.tell(stage, terminal.progress)
    except Exception as error:
        logger.exception("story %d", number)
        verdicts.broken(number, error)
        terminal.failure(verdicts.objections[-1])
        return
    terminal.ledgers(saga, textbook)
    if verdicts.pass_on(number, saga, textbook, hazard=story.hazard):
        terminal.text(story.lesson)
    else:
        terminal.failure(verdicts.objections[-1])


def summary(terminal: Terminal, verdicts: Verdicts) -> None:
    """Prints the score."""
    terminal.heading("In the end")
    for line in verdicts.objections:
        terminal.failure(line)
    terminal.text(verdicts.score)


def look_around(terminal: Terminal, stage: Stage, ui_port: int | None, *, keep: bool) -> None:
    """Prints where to look, or how to get there if all of it ends now."""
    terminal.heading("Look around")
    ui = "that of your server" if ui_port is None else f"http://127.0.0.1:{ui_port}"
    if ui_port is not None and not keep:
        terminal.text(f"The server ends now. `make demo KEEP=1` leaves it running, with its Web UI at {ui}.")
        return
    terminal.text(f"Web UI      {ui}")
    terminal.text(f"workflows   demo-{stage.run}-<story>-saga, demo-{stage.run}-<story>-textbook")
    terminal.text("history     the compensations are the activities `undo ...`")
    terminal.text("details     the workflow's current details show its saga as a list")
    if not keep:
        terminal.text("The workers end now. `make demo KEEP=1` leaves them running, to answer the query saga_report.")
        return
    terminal.text("query       saga_report: each step and its outcome")
    terminal.text(f"log         {stage.folder / 'log.txt'}, with the ledgers beside it")
    terminal.text("All of it stays until Ctrl-C.")


async def interrupted() -> None:
    """Waits for Ctrl-C."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()


@contextmanager
def workspace(verdicts: Verdicts) -> Generator[Path, None, None]:
    """Gives a folder that is deleted at the end, unless something went wrong: then its log says what."""
    folder = Path(tempfile.mkdtemp(prefix="temporal-saga-demo-"))
    broken = False
    try:
        yield folder
    except Exception:
        broken = True
        raise
    finally:
        if broken or verdicts.objections:
            print(f"The log is {folder / 'log.txt'}", file=sys.stderr)
        else:
            shutil.rmtree(folder)


@contextmanager
def output_to(log: Path) -> Generator[TextIO, None, None]:
    """Sends to a file what the server, the SDK's core and logging write; gives stdout as it was."""
    kept = {number: os.dup(number) for number in (1, 2)}
    with log.open("wb") as file:
        for number in kept:
            os.dup2(file.fileno(), number)
    logging.basicConfig(level=logging.INFO)  # to stderr
    try:
        with os.fdopen(os.dup(kept[1]), "w", encoding=sys.stdout.encoding) as stream:
            yield stream
    finally:
        for number, before in kept.items():
            os.dup2(before, number)
            os.close(before)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo",
        description="Seven stories on a real Temporal server, each with a saga and, under the same "
        "hazard, with the textbook's idiom. On the server that TEMPORAL_ADDRESS names, or its own.",
        epilog="Exit code 0: the saga's ledger was right in each story, and the textbook's wrong "
        "in those with a hazard and right in the others. Else 1.",
    )
    every = range(1, len(STORIES) + 1)
    parser.add_argument("--keep", action="store_true", help="leave the server running till Ctrl-C")
    parser.add_argument("--story", type=int, choices=every, help="tell only this one")
    options = parser.parse_args()
    numbers = [options.story] if options.story else every
    try:
        sys.exit(run_program(run(numbers, keep=options.keep)))
    except DevServerError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

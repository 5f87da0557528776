"""What a replay in the same process does not see: other processes, the sandbox; and lists, and misuse."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.plugin import SimplePlugin

from temporal_saga import Saga, presets
from temporal_saga.testing import Exploration, cancel, explore
from temporal_saga.testing.explorer import _elsewhere

S = presets.standard()
SHORT: Any = {"start_to_close_timeout": timedelta(seconds=10)}


@activity.defn
async def do(what: str) -> str:
    return what


@activity.defn
async def undo(what: str) -> None:
    pass


def tried(run: Any, *args: Any, **options: Any) -> Exploration:
    return explore(run, *args, setup=lambda: [do, undo], fail=False, **{"kinds": ["cancel"], **options})


def kinds(exploration: Exploration) -> list[str]:
    return sorted({violation.kind for violation in exploration.violations})


@workflow.defn
class GoesByStrings:
    """Goes by the order of a set of strings."""

    @workflow.run
    async def run(self) -> None:
        for name in {f"name {number}" for number in range(9)}:
            await workflow.execute_activity(do, name, **SHORT)


@workflow.defn
class GoesByTasks:
    """Cancels its tasks in the order of a set, as a `TaskGroup` does, and each cleans up in its turn."""

    @workflow.run
    async def run(self) -> None:
        tasks = {asyncio.create_task(self._part(name)) for name in "abcdefgh"}
        try:
            await workflow.sleep(1)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _part(self, name: str) -> None:
        try:
            await workflow.sleep(3600)
        finally:
            await workflow.execute_activity(do, name, **SHORT)


@workflow.defn
class GoesBySagas:
    """Savepoints in tasks that are cancelled in the order of a set: the library puts them in order."""

    @workflow.run
    async def run(self) -> None:
        async with Saga(activity_options=S) as saga:

            async def part(name: str) -> None:
                async with saga.savepoint() as way:
                    await way.execute_activity(do, name, compensation=undo, key=name)
                    await workflow.wait_condition(lambda: False)

            tasks = {asyncio.create_task(part(name)) for name in "abcdefgh"}
            try:
                await workflow.sleep(1)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)


@workflow.defn
class LooksAtTheClock:
    @workflow.run
    async def run(self, what: str) -> None:
        if what == "datetime":
            datetime.now(timezone.utc)
        elif what == "time":
            time.time()
        elif what == "environ":
            os.environ.get("HOME")


@workflow.defn(sandboxed=False)
class LooksAtTheClockUnsandboxed(LooksAtTheClock):
    @workflow.run
    async def run(self, what: str) -> None:
        return await super().run(what)


@pytest.mark.parametrize("run", [GoesByStrings.run, GoesByTasks.run], ids=["strings", "tasks"])
def test_c8_what_goes_by_the_order_of_a_set(run: Any) -> None:
    """A process repeats the hashes of strings and of tasks, so that a replay in it sees nothing: other processes do."""
    (violation,) = tried(run).violations
    assert violation.kind == "replay differs"
    if run is GoesByStrings.run:
        assert kinds(tried(run, elsewhere=False)) == []
        assert "in another process" in violation.message
    assert kinds(tried(run, plan=violation.plan)) == ["replay differs"], "the line that it prints shows it again"


def test_c8_a3_sagas_in_tasks_replay_elsewhere() -> None:
    """Savepoints that are cancelled in any order unwind in one order, in each process."""
    exploration = tried(GoesBySagas.run)
    assert (kinds(exploration), exploration.notes) == ([], [])


@pytest.mark.parametrize("what", ["datetime", "time"])
def test_c8_what_the_sandbox_forbids(what: str) -> None:
    """A clock that is not the workflow's is an objection, though the runs all came to the same."""
    exploration = tried(LooksAtTheClock.run, what)
    assert kinds(exploration) == ["restricted in the sandbox"]
    assert f"Cannot access {what}" in exploration.violations[0].message
    assert exploration.violations[0].plan == ()
    assert kinds(tried(LooksAtTheClock.run, what, plan=[])) == ["restricted in the sandbox"]
    assert kinds(tried(LooksAtTheClock.run, what, elsewhere=False)) == []
    assert kinds(tried(LooksAtTheClockUnsandboxed.run, what)) == [], "such a workflow runs in no sandbox"


@workflow.defn
class EndsOtherwise:
    @workflow.run
    async def run(self) -> None:
        if workflow.unsafe.in_sandbox():
            await workflow.wait_condition(lambda: False)


def test_c8_what_cannot_be_tried_is_said() -> None:
    """An option that does not travel, and a run that ends otherwise in the sandbox, are said, and are no objections."""
    otherwise = tried(EndsOtherwise.run)
    assert kinds(otherwise) == []
    assert [note.partition(" there:")[0] for note in otherwise.notes] == ["not run in the sandbox: it ended otherwise"]
    assert otherwise.notes[0] in str(otherwise)

    unpicklable = SimplePlugin("local", run_context=lambda: nullcontext())
    exploration = tried(GoesBySagas.run, plugins=[unpicklable], plan=[])
    assert "local object" in exploration.notes[0]


def test_c8_a_process_that_is_stuck_or_gone_is_said_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper that dies never ends an exploration, and the next one has new ones."""
    monkeypatch.setattr(_elsewhere, "_PATIENCE", 0.5)
    real = list(_elsewhere._running)
    _elsewhere._running.clear()
    monkeypatch.setattr(_elsewhere, "_SERVE", "import time; time.sleep(60)")
    stuck = tried(GoesBySagas.run, plan=[])
    assert stuck.notes == ["not replayed in another process: the process has ended, or was stuck"]
    monkeypatch.setattr(_elsewhere, "_SERVE", "raise SystemExit")
    ended = tried(GoesBySagas.run, plan=[cancel(at=2)])
    assert len(ended.notes) == 1
    monkeypatch.undo()
    for process in _elsewhere._running:
        process.end()
    _elsewhere._running[:] = real
    assert tried(GoesBySagas.run, plan=[]).notes == []


def test_c8_a_module_that_runs_as_main_is_not_run_again(tmp_path: Path) -> None:
    """A script that explores is not imported by the other processes: its code would run once more."""
    script = tmp_path / "script.py"
    script.write_text(
        "from temporalio import workflow\n"
        "from temporal_saga.testing import explore\n"
        "print('once')\n"
        "@workflow.defn\n"
        "class Nothing:\n"
        "    @workflow.run\n"
        "    async def run(self) -> None: pass\n"
        "print(explore(Nothing.run, setup=list))\n"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert run.stdout.count("once") == 1
    assert "move it to a module of its own" in run.stdout


# --- lists, and misuse -----------------------------------------------------------------------------------------------


@workflow.defn
class Forgets:
    """Calls a step and never awaits it."""

    @workflow.run
    async def run(self) -> None:
        async with Saga(activity_options=S) as saga:
            await saga.execute_activity(do, "a", step="a", compensation=undo)
            saga.execute_activity(do, "b", step="b", compensation=undo)  # type: ignore[unused-coroutine]


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_c8_b2_a_step_that_is_never_awaited() -> None:
    """A forgotten await is an objection that names the step."""
    (violation,) = tried(Forgets.run, faults=0).violations
    assert violation.kind == "hangs"
    assert "'b'" in violation.message
    assert "await" in violation.message


@workflow.defn
class CallsOutOfLine:
    """Sends a mail by a plain activity, in the scope; and one past it, and one before it."""

    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(do, "before", **SHORT)
        async with Saga(activity_options=S) as saga:
            saga.add_callback(self._clean_up)
            await saga.execute_activity(do, "a", step="a", compensation=undo)
            await workflow.execute_activity(send_mail, "within", **SHORT)
            await saga.execute_activity(do, "b", step="b", compensation=undo)
        await workflow.execute_activity(do, "behind", **SHORT)

    async def _clean_up(self) -> None:
        await workflow.execute_activity(undo, "by a callback", **SHORT)


@activity.defn
async def send_mail(to: str) -> None:
    pass


def test_c8_a_plain_activity_in_the_scope_is_listed() -> None:
    """What ran in the scope and is no step is listed once the saga ended badly; nothing else is."""
    exploration = explore(
        CallsOutOfLine.run, setup=lambda: [do, undo, send_mail], fail=False, kinds=["fails_after", "cancel"]
    )
    assert kinds(exploration) == []
    assert exploration.plain_activities == ["send_mail"]
    assert "plain activities in a saga's scope, which nothing undoes: send_mail" in str(exploration)
    good = explore(CallsOutOfLine.run, setup=lambda: [do, undo, send_mail], faults=0)
    assert good.plain_activities == []


RUNNING: list[str] = []


@asynccontextmanager
async def running() -> AsyncIterator[None]:
    RUNNING.append("here")
    try:
        yield
    finally:
        RUNNING.pop()


@workflow.defn
class NeedsItsPlugin:
    @workflow.run
    async def run(self) -> None:
        for name in RUNNING:
            await workflow.execute_activity(do, name, **SHORT)


def test_c12_replays_elsewhere_are_inside_of_what_plugins_run() -> None:
    """Outside of it, the workflow would have nothing to do."""
    explored = tried(NeedsItsPlugin.run, plugins=[SimplePlugin("running", run_context=running)])
    assert (explored.violations, RUNNING) == ([], [])
    assert not [note for note in explored.notes if "another process" in note]

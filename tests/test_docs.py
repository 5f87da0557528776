"""The pages under docs/: their code runs and does what they say, their links and the tests that they name exist.

The Python blocks of a page are one module, in the order of the page; a block that is marked `no-run` is left out.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import importlib
import inspect
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
from temporalio import activity, workflow
from temporalio.exceptions import ActivityError, ApplicationError, ChildWorkflowError
from temporalio.testing import ActivityEnvironment
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

import temporal_saga
from temporal_saga import Declined, business_key, presets
from temporal_saga.errors import Fenced, Rejected
from temporal_saga.testing import explore, step_environment
from tests.driver import (
    HANG,
    Activity,
    Run,
    cancel,
    cancelled,
    child_completed,
    child_failed,
    child_started,
    completed,
    failed,
    signal,
    timed_out,
    timer,
    update,
)
from tests.rules.workflows import DECLINED, REFUSED, cancels, end
from tools.release import tutorial

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
CLI = "temporal workflow query --workflow-id o-1 --type saga_report"


def blocks(text: str, info: str) -> list[tuple[int, str]]:
    """Return the fenced blocks of a page with that info string, each with the number of its first line."""
    fences = re.finditer(rf"^```{re.escape(info)}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(text.count("\n", 0, fence.start(1)), fence[1]) for fence in fences]


@cache
def load(name: str) -> Any:
    """Run the blocks of a page as one module, whose tracebacks show the lines of the page."""
    path = ROOT / "docs" / f"{name}.md"
    page = types.ModuleType(f"docs_{name.replace('-', '_')}")
    sys.modules[page.__name__] = page  # where dataclasses and the SDK look for what annotations name
    for line, code in blocks(path.read_text(), "python"):
        exec(compile("\n" * line + code, str(path), "exec"), page.__dict__)
    return page


def by(page: Any, *, first: int = 1) -> Callable[[Activity], Any]:
    """Return a behaviour that runs the page's own activity, in attempt `first`, and gives back what it raises."""
    definitions = {
        activity._Definition.must_from_callable(each).name: each
        for each in vars(page).values()
        if hasattr(each, "__temporal_activity_definition")  # of two with one name the later one
    }

    def run(call: Activity) -> Any:
        function = definitions[call.name]
        types_of_arguments = activity._Definition.must_from_callable(function).arg_types
        arguments = call.converter.payload_converter.from_payloads(call.command.arguments, types_of_arguments)
        environment = ActivityEnvironment()
        environment.info = dataclasses.replace(ActivityEnvironment.default_info(), activity_id=call.id, attempt=first)
        loop = asyncio.new_event_loop()  # not `asyncio.run`, which would take the loop of the async tests away
        try:
            result = environment.run(function, *arguments)
            return loop.run_until_complete(result) if inspect.isawaitable(result) else result
        except ApplicationError as error:
            return error
        finally:
            loop.close()

    return run


def order(**changes: Any) -> dict[str, Any]:
    return {"id": "o-1", "cents": 500, "card": "good", **changes}


# --- the pages ---


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_is_short_and_its_links_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 310
    for target, anchor in re.findall(r"\]\(([^)#:]*)(#[^)]*)?\)", text):
        page = (path.parent / target) if target else path
        assert page.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
            assert anchor[1:] in [re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings], anchor


def test_the_index_has_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert {path.name for path in PAGES} == {"README.md", *re.findall(r"\]\(([\w-]+\.md)\)", index)}


def test_the_tests_that_a_page_names_exist() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = {name for path in PAGES for name in re.findall(r"`(test_\w+)`", path.read_text())} - {"test_"}
    assert len(named) > 50
    assert {name for name in named if f"def {name}(" not in tests} == set()


def test_few_blocks_are_not_run() -> None:
    for path in PAGES:
        fences = re.findall(r"^```(\w.*)$", path.read_text(), re.MULTILINE)
        assert set(fences) <= {"python", "python no-run", "text", "console", "yaml"}, path
        assert fences.count("python no-run") <= 1, path


WITH_WORKFLOWS = [path for path in PAGES if "@workflow.defn" in path.read_text() and path.stem != "testing"]


@pytest.mark.parametrize("path", WITH_WORKFLOWS, ids=lambda path: path.name)
async def test_a_worker_takes_a_page_that_is_one_file(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sandbox imports the module of a workflow anew, and refuses what some libraries do when they are imported."""
    name = f"file_of_{path.stem.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text("\n".join(code for _, code in blocks(path.read_text(), "python")))
    monkeypatch.syspath_prepend(tmp_path)
    page = importlib.import_module(name)
    workflows = [each for each in vars(page).values() if hasattr(each, "__temporal_workflow_definition")]
    assert workflows
    for each in workflows:
        SandboxedWorkflowRunner().prepare_workflow(workflow._Definition.must_from_class(each))


# --- tutorial ---


def test_tutorial_the_charge_of_a_plain_workflow_stands() -> None:
    run = Run(load("tutorial").PlainOrder, order()).autopilot({"allocate": REFUSED})
    assert run.history == ["charge", "allocate"]
    run.check()


def test_tutorial_a_timeout_is_undone_newest_first() -> None:
    run = Run(load("tutorial").FirstSaga, order()).start()
    run.activate(completed("charge"))
    run.activate(timed_out("allocate"))
    run.autopilot({})
    assert run.history == ["charge", "allocate", "release", "refund"]
    assert isinstance(run.error, ActivityError)
    assert run.error.activity_type == "allocate"
    assert undo_arguments(run) == [[order()], [order()]]
    run.check()


def undo_arguments(run: Run) -> list[list[Any]]:
    return [each.args for each in run.scheduled if ":undo:" in each.id]


def test_tutorial_a_declined_card_needs_no_refund() -> None:
    page = load("tutorial")
    run = Run(page.FirstSaga, order(card="stolen")).autopilot({"charge": by(page)})
    assert run.history == ["charge"]
    assert run.error.cause.type == "Declined"
    late = Run(page.FirstSaga, order(card="stolen")).autopilot({"charge": by(page, first=2)})
    assert late.history == ["charge", "refund"]


def test_tutorial_a_cancel_waits_for_the_step() -> None:
    run = Run(load("tutorial").FirstSaga, order()).start()
    run.activate(completed("charge"))
    run.activate(cancel())
    assert cancels(run) == ["allocate"]
    assert run.history == ["charge", "allocate"]
    run.activate(cancelled("allocate"))
    run.autopilot({})
    assert run.history == ["charge", "allocate", "release", "refund"]
    assert run.was_cancelled
    run.check()


def fulfil(carriers: list[str], label: Any = "ups-1") -> Run:
    page = load("tutorial")
    page.PAYMENTS.clear()
    return Run(page.FulfilOrder, order(), carriers).autopilot({"charge": by(page), "print_label:do": label})


def test_tutorial_the_order_is_shipped() -> None:
    run = fulfil(["ups"])
    assert run.history == ["charge", "allocate", "book_pickup", "print_label", "ship"]
    assert run.result == "ups-1"
    assert list(load("tutorial").PAYMENTS.values()) == [500]
    run.check()


def test_tutorial_the_second_carrier() -> None:
    answers = iter([REFUSED, "dhl-1"])
    run = fulfil(["ups", "dhl"], lambda _: next(answers))
    undos = ["void_label", "cancel_pickup"]
    ways = ["book_pickup", "print_label", *undos, "book_pickup", "print_label"]
    assert run.history == ["charge", "allocate", *ways, "ship"]
    assert run.result == "dhl-1"
    key = next(each.id for each in run.scheduled if each.name == "print_label").split(":")[2]
    assert undo_arguments(run) == [[{"number": None, "key": key}], ["ups"]]
    run.check()


def test_tutorial_no_carrier_and_what_the_ui_and_the_query_show() -> None:
    run = fulfil([])
    assert run.history == ["charge", "allocate", "release", "refund"]
    assert run.error.message == "no carrier takes it"
    assert list(load("tutorial").PAYMENTS.values()) == [0]
    ((_, shown),) = blocks((ROOT / "docs" / "tutorial.md").read_text(), "text")
    assert run.query("__temporal_workflow_metadata").current_details.strip() == shown.strip()
    assert [each.command.activity_id.partition(":")[0] for each in run.scheduled[2:]] == ["allocate", "charge"]
    (report,) = run.query("saga_report")
    assert (report["name"], report["state"]) == ("order", "COMPENSATED")
    assert [step["undo"] for step in report["steps"]] == ["refund", "release"]
    run.check()


def test_tutorial_a_cancel_after_the_pivot_is_held() -> None:
    page = load("tutorial")
    run = Run(page.FulfilOrder, order(), ["ups"]).start()
    for name in ("charge", "allocate", "book_pickup"):
        run.activate(completed(name))
    run.activate(completed("print_label", "ups-1"))
    run.activate(cancel())
    assert cancels(run) == []
    run.activate(completed("ship"))
    assert undo_arguments(run) == []
    assert run.was_cancelled
    run.check()


def test_tutorial_its_own_test(tmp_path: Path) -> None:
    """Promise: a reader who pastes the blocks into the two files of an empty folder sees the test pass."""
    program, test, *_ = tutorial((ROOT / "docs" / "tutorial.md").read_text())
    (tmp_path / "orders.py").write_text(program)
    (tmp_path / "test_orders.py").write_text(test)
    environment = {**os.environ, "PYTHONPATH": str(Path(temporal_saga.__file__).parents[1])}  # the one that is tested
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_orders.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert "1 passed" in done.stdout, done.stdout


def test_tutorial_its_own_test_finds_what_is_missing() -> None:
    page = load("tutorial")
    with pytest.raises(AssertionError, match=r"applies_late\('charge'\)"):
        explore(page.FulfilOrder.run, page.Order("o-1", 500), ["ups"], setup=page.setup, check=page.check)


def test_tutorial_a_worker_has_all_that_the_workflow_calls() -> None:
    page = load("tutorial")
    names = [activity._Definition.must_from_callable(each).name for each in page.ACTIVITIES]
    assert len(set(names)) == len(names)
    called = {each.name for run in (fulfil(["ups"]), fulfil(["x"], REFUSED)) for each in run.scheduled}
    assert called == set(names)


# --- guarantees: what the rows say, of the workflow at the top of the page ---


def purchase() -> Run:
    return Run(load("guarantees").Purchase, "o-1").start()


@pytest.mark.parametrize(
    ("event", "undos"),
    [
        (failed("capture", DECLINED), ["release"]),
        (failed("capture", Declined()), ["refund", "release"]),  # not raised in a first attempt
        (failed("capture", REFUSED), ["refund", "release"]),
        (failed("capture", TypeError()), ["refund", "release"]),
        (timed_out("capture"), ["refund", "release"]),
    ],
    ids=["declined", "declined later", "failed", "a bug in the activity", "timed out"],
)
def test_guarantees_a_step_does_not_succeed(event: Any, undos: list[str]) -> None:
    run = purchase()
    run.activate(completed("reserve"))
    run.activate(event)
    run.autopilot({})
    assert run.history == ["reserve", "capture", *undos]
    assert isinstance(run.error, ActivityError)
    run.check()


def test_guarantees_the_workflow_is_cancelled() -> None:
    for at in range(4):
        run = Run(load("guarantees").Purchase, "o-1").autopilot({"capture:do": HANG} if at == 2 else {}, cancel_at=[at])
        done = run.history[:2] if at > 1 else run.history[:at]
        assert run.history == [*done, *[{"reserve": "release", "capture": "refund"}[each] for each in reversed(done)]]
        assert run.was_cancelled
        run.check()


def test_guarantees_after_the_pivot() -> None:
    run = Run(load("guarantees").Purchase, "o-1").autopilot({"hand_over": REFUSED})
    assert run.history == ["reserve", "capture", "hand_over"]
    assert end(run) == "ActivityError"
    run.check()


def test_guarantees_a_compensation_fails() -> None:
    run = Run(load("guarantees").Purchase, "o-1").autopilot({"capture:do": REFUSED, "refund": REFUSED})
    assert run.history == ["reserve", "capture", "refund", "release"]
    assert end(run) == "CompensationError"
    assert [step["undo_state"] for step in run.error.details[0]["steps"]] == ["DONE", "FAILED"]
    assert run.error.cause.activity_type == "capture"
    run.check()


# --- how it works ---


def test_how_it_works_the_picture() -> None:
    # Row for row: what arrives, and what the saga does about it.
    run = Run(load("how-it-works").Trip, 7).start()
    assert run.names == ["flight"]
    run.activate(completed("flight"))
    assert run.names == ["hotel", "car"]
    run.activate(failed("car", REFUSED))
    assert cancels(run) == ["hotel"]
    assert run.activate(cancel()) == []
    run.activate(completed("hotel"))
    for undo in ("cancel_car", "cancel_hotel", "cancel_flight"):
        assert run.names == [undo]
        run.activate(completed(undo))
    assert run.error.activity_type == "car"
    run.check()


def test_how_it_works_a_cancel_in_the_drain_of_a_cancel() -> None:
    run = Run(load("how-it-works").Trip, 7).start()
    run.activate(completed("flight"))
    run.activate(cancel())
    assert cancels(run) == ["hotel", "car"]
    run.activate(cancel())
    run.autopilot({"hotel:do": HANG, "car:do": HANG})
    assert run.history[3:] == ["cancel_car", "cancel_hotel", "cancel_flight"]
    assert run.was_cancelled
    run.check()


def test_how_it_works_the_key_of_a_step() -> None:
    page = load("how-it-works")
    run = Run(page.Trip, 7).start()
    assert run.activities[0].id == f"flight:do:{page.key_of_the_flight(run.original_execution_run_id)}"


# --- how-to ---


def test_how_to_parallel_steps() -> None:
    page = load("how-to")
    run = Run(page.InParallel, ["a", "b"]).start()
    assert run.names == ["reserve", "reserve"]
    run.activate(*[completed(each.id) for each in run.activities])
    run.activate(*[completed(each.id) for each in reversed(run.activities)])
    assert [each.name for each in run.activities] == ["pay", "pay"]
    run.activate(failed(run.activities[0].id, REFUSED))
    run.autopilot({})
    assert run.history[6:] == ["repay", "repay", "release", "release"]
    assert end(run) == "ActivityError"
    run.check()


def test_how_to_undo_at_the_same_time() -> None:
    run = Run(load("how-to").Concurrently, ["a", "b"]).start()
    run.activate(*[completed(each.id) for each in run.activities])
    run.activate(completed("pay"))
    run.activate(cancel())
    assert run.names == ["repay"]
    run.activate(completed("repay"))
    assert run.names == ["release", "release"]
    run.autopilot({})
    assert run.was_cancelled
    run.check()


def test_how_to_continue_as_new() -> None:
    page = load("how-to")
    first = Run(page.Batches, ["a", "b"], None).autopilot({})
    assert first.closed is not None
    assert first.closed[0] == "continue_as_new"
    run = Run(page.Batches, *first.closed[1]).autopilot({"pay:do": REFUSED})
    assert run.history == ["reserve", "pay", "repay", "release", "release"]
    assert undo_arguments(run) == [["b"], ["b"], ["a"]]
    assert run.scheduled[-1].id == first.scheduled[0].id.replace(":do:", ":undo:")
    run.check()


def test_how_to_a_childs_stack_in_its_parent() -> None:
    page = load("how-to")
    child = Run(page.Reserve, ["a", "b"]).autopilot({})
    run = Run(page.ReserveThenPay, ["a", "b"]).start()
    run.activate(child_started("Reserve"))
    run.activate(child_completed("Reserve", child.result))
    run.autopilot({"pay:do": REFUSED})
    assert run.history == ["pay", "repay", "release", "release"]
    assert undo_arguments(run) == [["all"], ["b"], ["a"]]
    run.check()


def test_how_to_a_child_that_fails_has_unwound_by_itself() -> None:
    page = load("how-to")
    child = Run(page.Reserve, ["a", "b"]).start()
    child.activate(completed("reserve"))
    child.activate(failed("reserve", DECLINED))
    child.autopilot({})
    assert child.history == ["reserve", "reserve", "release"]
    run = Run(page.ReserveThenPay, ["a", "b"]).start()
    run.activate(child_started("Reserve"))
    run.activate(child_failed("Reserve", child.error))
    assert run.history == []
    assert isinstance(run.error, ChildWorkflowError)
    run.check()


def answer(run: Run, name: str, line: str) -> Any:
    """Send the cart an update, let its activity complete, and return the answer or the type of its error."""
    run.activate(update(name, line))
    if run.names:
        run.activate(completed(run.names[0]))
    kind, _, value = run.activations[-1].commands[-1]
    return value.type if kind == "update_rejected" else kind


def test_how_to_undo_one_step() -> None:
    run = Run(load("how-to").Cart).start(update("add", "a"))  # it comes before the main method begins
    run.activate(completed("reserve"))
    assert run.commands[-1][0] == "update_completed"
    answers = [answer(run, *each) for each in [("add", "b"), ("add", "a"), ("take_out", "a")]]
    assert answers == ["update_completed", "DuplicateStep", "update_completed"]
    assert [answer(run, "take_out", line) for line in ("a", "c")] == ["StepNotArmed", "StepNotArmed"]
    assert answer(run, "add", "a") == "DuplicateStep"
    run.activate(signal("check_out"))
    run.autopilot({"pay:do": REFUSED})
    assert run.history == ["reserve", "reserve", "release", "pay", "repay", "release"]
    assert undo_arguments(run) == [["a"], ["all"], ["b"]]
    assert end(run) == "ActivityError"
    run.check()


def test_how_to_a_cart_whose_item_cannot_be_released() -> None:
    run = Run(load("how-to").Cart).start()
    answer(run, "add", "a")
    run.activate(update("take_out", "a"))
    run.activate(failed("release", REFUSED))
    run.activate(signal("check_out"))
    run.autopilot({})
    assert run.history == ["reserve", "release", "pay", "repay"]
    assert end(run) == "CompensationError"
    run.check()


@pytest.mark.parametrize(
    ("events", "result"),
    [
        ([signal("review", True)], "bought"),
        ([signal("review", False)], "rejected, COMPENSATED"),
        ([timer()], "rejected, COMPENSATED"),
    ],
    ids=["yes", "no", "no answer"],
)
def test_how_to_a_human_review(events: list[Any], result: str) -> None:
    run = Run(load("how-to").Reviewed, "a").start()
    run.activate(completed("reserve"))
    run.activate(*events)
    run.autopilot({})
    assert run.history == ["reserve", "pay" if result == "bought" else "release"]
    assert run.result == result
    run.check()


def test_how_to_a_deadline() -> None:
    run = Run(load("how-to").WithinAWeek, "a").autopilot({})
    assert run.history == ["reserve", "release"]
    assert end(run) == "SagaDeadlineExceeded"
    run.check()


@workflow.defn(name="Order")
class Old:
    """The workflow of the how-to as it was before its saga."""

    @workflow.run
    async def run(self, item: str) -> None:
        await workflow.execute_activity("reserve", item, **presets.standard())
        await workflow.execute_activity("pay", item, **presets.standard())


def test_how_to_move_a_workflow_over() -> None:
    page = load("how-to")
    new = Run(page.Order, "a").autopilot({"pay:do": REFUSED})
    assert new.history == ["reserve", "pay", "repay", "release"]

    open_run = Run(Old, "a").start()
    open_run.activate(completed("reserve"))
    open_run.restart(page.Order)
    open_run.autopilot({"pay:do": REFUSED})
    assert open_run.history == ["reserve", "pay"]
    assert ":" not in open_run.scheduled[1].id
    open_run.check()


def test_how_to_a_callback() -> None:
    run = Run(load("how-to").WithCallback, "a").autopilot({"reserve:do": REFUSED})
    assert run.history == ["reserve", "release", "price"]
    assert run.result == "open again"
    run.check()


def test_how_to_another_task_queue() -> None:
    run = Run(load("how-to").TwoQueues, "a").start()
    run.activate(completed("reserve"))
    run.activate(cancel())
    run.autopilot({})
    assert [(each.name, each.command.task_queue) for each in run.scheduled] == [
        ("reserve", "warehouse"),
        ("release", "warehouse"),
    ]
    assert run.was_cancelled
    run.check()


# --- recipes ---


def test_recipes_a_decline_is_a_result() -> None:
    """In whichever attempt: from the second on the charge is undone too. Another error goes on."""
    page = load("recipes")
    for attempt, undone in ((1, ["cancel_booking"]), (2, ["refund", "cancel_booking"])):
        run = Run(page.Stay, "suite").autopilot({"charge": by(page, first=attempt)})
        assert run.history == ["book", "charge", *undone]
        assert run.result == "declined: the card has no money for a suite"
        run.check()
    assert Run(page.Stay, "single").autopilot({}).result == "booked"
    assert end(Run(page.Stay, "single").autopilot({"charge:do": REFUSED})) == "ActivityError"
    failed_undo = {"charge": by(page), "cancel_booking": REFUSED}
    assert end(Run(page.Stay, "suite").autopilot(failed_undo)) == "CompensationError"


async def at_the_hotel(page: Any, phase: Literal["do", "undo"], *, seconds: float) -> None:
    """Run the step or its undo, which was scheduled so long ago and whose attempt may last 30 s."""
    environment = step_environment("book", phase=phase)
    began = datetime.now(timezone.utc) - timedelta(seconds=seconds)
    environment.info = dataclasses.replace(
        environment.info, scheduled_time=began, started_time=began, start_to_close_timeout=timedelta(seconds=30)
    )
    await environment.run(page.book if phase == "do" else page.cancel_booking, "single")


async def test_recipes_undo_by_looking_first() -> None:
    """A step that is repeated books once, one that comes too late does not book; the undo looks until none can come."""
    page = load("recipes")
    page.hotel.bookings.clear()
    with pytest.raises(ApplicationError, match="so far"):
        await at_the_hotel(page, "undo", seconds=1)
    for _ in range(2):
        await at_the_hotel(page, "do", seconds=1)
        assert list(page.hotel.bookings.values()) == ["single"]
    for seconds in (1, 41):
        await at_the_hotel(page, "undo", seconds=seconds)
        assert page.hotel.bookings == {}
    with pytest.raises(Rejected):
        await at_the_hotel(page, "do", seconds=31)
    assert page.hotel.bookings == {}


def test_recipes_a_few_steps_at_once() -> None:
    """Never more than three run. A failure, or a cancel, at any point leaves nothing booked and no other room tried."""
    page = load("recipes")
    rooms = [f"room {number}" for number in range(7)]
    run = Run(page.BookAll, rooms).start()
    for number in range(7):
        assert len(run.scheduled) == min(number + 3, 7)
        run.activate(completed("book"))
    run.check()
    assert [each.args for each in run.scheduled] == [[room] for room in rooms]

    run = Run(page.BookAll, rooms).start()
    run.activate(failed("book", REFUSED))
    run.autopilot({})
    assert run.history == ["book"] * 3 + ["cancel_booking"] * 3
    assert end(run) == "ActivityError"
    run.check()


def test_recipes_a_tenant_has_its_queue_and_an_undo_comes_first() -> None:
    page = load("recipes")
    run = Run(page.TenantStay, "acme", "single").autopilot({"charge:do": REFUSED})
    assert run.history == ["book", "charge", "refund", "cancel_booking"]
    commands = [each.command for each in run.scheduled]
    assert {command.task_queue for command in commands} == {"stays-acme"}
    assert [command.priority.priority_key for command in commands] == [0, 0, 1, 1]  # 0: as the workflow's
    run.check()


# --- keys ---


def stock(page: Any) -> int:
    with closing(page.connect()) as db:
        return int(db.execute("SELECT on_hand FROM stock").fetchone()[0])


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    page = load("keys")
    page.provider.payments.clear()
    monkeypatch.setattr(page, "FILE", str(tmp_path / "shop.db"))
    page.create_tables()
    return page


def sale(page: Any, behaviours: dict[str, Any]) -> Run:
    mine = {f"{step}:{phase}": by(page) for step in ("charge", "take") for phase in ("do", "undo")}
    return Run(page.Sale, "o-1").autopilot({**mine, **behaviours})


def test_keys_a_repeat_has_one_effect(keys: Any) -> None:
    def twice(call: Activity) -> Any:
        return by(keys)(call) or by(keys, first=2)(call)

    run = sale(keys, {"charge": twice, "take": twice})
    assert list(keys.provider.payments.values()) == ["charged"]
    assert stock(keys) == 0
    receipt, invoice = run.result
    assert invoice == business_key("invoice", "o-1")
    assert receipt not in "".join(each.id for each in run.scheduled)
    run.check()


def test_keys_what_applied_is_undone_once(keys: Any) -> None:
    def lost(call: Activity) -> Any:
        by(keys)(call)
        return REFUSED  # it took effect, and its reply says nothing

    def twice(call: Activity) -> Any:
        return by(keys)(call) or by(keys, first=2)(call)

    run = sale(keys, {"take:do": lost, "take:undo": twice, "charge:undo": twice})
    assert run.history == ["charge", "take", "put_back", "cancel_charge"]
    assert list(keys.provider.payments.values()) == ["cancelled"]
    assert stock(keys) == 1
    run.check()


def test_keys_what_comes_after_its_undo_has_no_effect(keys: Any) -> None:
    run = sale(keys, {"charge:do": None, "take:do": REFUSED})
    assert run.history == ["charge", "take", "put_back", "cancel_charge"]
    charge, take = run.scheduled[:2]
    assert isinstance(by(keys, first=2)(charge), Declined)
    assert isinstance(by(keys, first=2)(take), Fenced)
    assert list(keys.provider.payments.values()) == ["cancelled"]
    assert stock(keys) == 1


def test_keys_an_id_as_text_names_a_use(keys: Any) -> None:
    run = Run(keys.Invoices, [9, 7]).autopilot({"charge:do": by(keys)})
    key_of = load("how-it-works").key_of
    named = [key_of(run.original_execution_run_id, "invoices", 1, "charge", each) for each in ("9", "7")]
    assert [each.id.split(":")[2] for each in run.scheduled] == named
    assert len(keys.provider.payments) == 2
    run.check()


def test_keys_a_cancelled_sale(keys: Any) -> None:
    mine = {each: by(keys) for each in ("charge", "take")}
    run = Run(keys.Sale, "o-1").autopilot(mine, cancel_at=[3])
    assert run.history == ["charge", "take", "put_back", "cancel_charge"]
    assert stock(keys) == 1
    assert run.was_cancelled
    run.check()


@pytest.fixture(autouse=True)
def _collected() -> Any:
    """Collect what a test left behind, so that asyncio's complaints do not meet the replay of another one."""
    yield
    gc.collect()

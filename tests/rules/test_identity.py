"""Identity: keys that survive, and whose derivation is frozen."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from typing import Any
from uuid import UUID, uuid5

import pytest
from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from temporal_saga import Step, business_key, current_step
from temporal_saga._seed import seed_of
from tests.driver import Run
from tests.rules.workflows import REFUSED, do, flow, new_saga

ANCHOR = "11111111-2222-4333-8444-555555555555"


@flow
async def keys() -> list[str]:
    async with new_saga() as saga:
        await do(saga, "charge")
        await do(saga, "charge")
        await do(saga, "charge", key="card-1")
        async with saga.savepoint() as attempt:
            await do(attempt, "charge")
        saga.add_compensation("undo_by_hand")
        mine = [saga.idempotency_key("invoice", 7)]
    async with new_saga() as second:
        await do(second, "charge")
    try:
        async with new_saga("another") as another:
            await do(another, "charge")
            another.add_compensation("undo_by_hand")
            raise REFUSED
    except ApplicationError:
        return mine


FROZEN_IDS = [
    "charge:do:2c0a1580-1bd7-57a7-b21f-fa47344ab851",
    "charge:do:1f4d39ec-40a7-5150-aa13-6e995cd5da27",
    "charge:do:1c3f329e-04d2-5dbc-8d5f-a3d0a5a97b87",
    "charge:do:f5ad4cc2-a1ff-5644-824b-4fbbb8cd5e72",
    "charge:do:91ea4c49-91fa-5ca7-a27b-6c025bbf78b6",
    "charge:do:b8610843-85ef-553c-b502-8ef0cc4fdc97",
    "undo_by_hand:push:7a36db1a-23f6-5a17-8b5a-e3cdc1a8b289",
    "charge:undo:b8610843-85ef-553c-b502-8ef0cc4fdc97",
]
FROZEN_KEYS = ["7b7d283e-6811-5662-9280-e281335b6006"]


def test_frozen_the_keys_of_a_run() -> None:
    """Written down when 0.1 was made: a change breaks every open run."""
    run = Run(keys, run_id=ANCHOR).autopilot({})
    assert [activity.id for activity in run.scheduled] == FROZEN_IDS
    assert run.result == FROZEN_KEYS
    run.check()


def test_a_key_is_a_uuid5_of_the_anchor_and_the_canonical_path() -> None:
    run = Run(keys, run_id=ANCHOR).autopilot({})

    def key(*path: Any) -> str:
        return str(uuid5(UUID(ANCHOR), json.dumps(path, separators=(",", ":"))))

    assert [activity.id for activity in run.scheduled] == [
        f"charge:do:{key('saga', 1, 'charge', 1)}",
        f"charge:do:{key('saga', 1, 'charge', 2)}",
        f"charge:do:{key('saga', 1, 'charge', 'card-1')}",
        f"charge:do:{key('saga', 1, 'charge', 3)}",
        f"charge:do:{key('saga', 2, 'charge', 1)}",
        f"charge:do:{key('another', 1, 'charge', 1)}",
        f"undo_by_hand:push:{key('another', 1, 'undo_by_hand', 1)}",
        f"charge:undo:{key('another', 1, 'charge', 1)}",
    ]
    assert run.result == [key("saga", 1, ["invoice", 7])]


def test_keys_do_not_hang_on_what_a_replay_or_a_reset_changes() -> None:
    first = Run(keys, run_id=ANCHOR).autopilot({})
    reset = Run(
        keys, run_id="99999999-2222-4333-8444-555555555555", original_execution_run_id=ANCHOR, workflow_id="another-id"
    ).autopilot({})
    assert [activity.id for activity in reset.scheduled] == [activity.id for activity in first.scheduled]
    assert reset.result == first.result


def test_two_runs_have_different_keys() -> None:
    first, second = Run(keys).autopilot({}), Run(keys).autopilot({})
    ids = [activity.id for run in (first, second) for activity in run.scheduled]
    assert len(set(ids)) == len(ids)
    assert first.result != second.result


def test_an_idempotency_key_is_no_steps_key() -> None:
    @flow
    async def body() -> list[str]:
        async with new_saga() as saga:
            await do(saga, "charge", key="x")
            await do(saga, "charge")
            return [
                saga.idempotency_key(*parts)
                for parts in (("charge", "x"), ("charge", 1), ("charge",), (1,), ("1",), ("char", "ge"))
            ]

    run = Run(body, run_id=ANCHOR).autopilot({})
    all_keys = [*run.result, *[activity.id.split(":")[2] for activity in run.scheduled]]
    assert len(set(all_keys)) == 8
    assert {len(key) for key in all_keys} == {36}


def test_idempotency_keys_are_the_same_in_a_savepoint() -> None:
    @flow
    async def body() -> list[str]:
        async with new_saga() as saga, saga.savepoint() as attempt:
            return [saga.idempotency_key("x"), attempt.idempotency_key("x")]

    first, second = Run(body).start().result
    assert first == second


def test_the_nth_saga_is_counted_at_entry() -> None:
    @flow
    async def body() -> list[str]:
        later, sooner = new_saga(), new_saga()
        async with sooner as saga:
            keys = [saga.idempotency_key("x")]
        async with later as saga:
            return [*keys, saga.idempotency_key("x")]

    @flow
    async def plain() -> list[str]:
        async with new_saga() as saga:
            keys = [saga.idempotency_key("x")]
        async with new_saga() as saga:
            return [*keys, saga.idempotency_key("x")]

    assert Run(body, run_id=ANCHOR).start().result == Run(plain, run_id=ANCHOR).start().result


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("invoice", 7), "02fb657b-bab6-5ddf-93f4-369cf7927cbc"),
        (("a",), "dac95952-f33d-5ac7-b284-e51600fdf1b9"),
        ((1,), "1b6c09ca-4f35-50b2-920a-d440ff3a7a56"),
        (("1",), "853b2cf8-0414-5963-bd49-8393fdef131b"),
        (("ä", "€"), "29d06909-9451-51c9-8717-358bd2493819"),
        (("a", "b"), "2a762d4a-16dc-5e39-8a05-582bd84c9775"),
        (("a,b",), "66f00f2f-53ba-57d0-a896-a6a5c4928a62"),
    ],
)
def test_frozen_business_keys(parts: tuple[str | int, ...], expected: str) -> None:
    assert business_key(*parts) == expected


def test_business_keys_need_parts_with_one_spelling() -> None:
    with pytest.raises(ValueError, match=r"^a key needs at least one part$"):
        business_key()
    for wrong in (1.5, True, None, b"x", ["x"]):
        with pytest.raises(
            TypeError, match=f"^a part of a key must be a str or an int, not {type(wrong).__name__}: write"
        ):
            business_key("a", wrong)  # type: ignore[arg-type]


def look(activity_id: str, attempt: int = 1) -> Step:
    environment = ActivityEnvironment()
    environment.info = dataclasses.replace(ActivityEnvironment.default_info(), activity_id=activity_id, attempt=attempt)
    return environment.run(current_step)


FORWARD = "cf79ab41-35b3-52e0-9e35-1b2a3d4c5d6e"


def test_current_step_of_a_step() -> None:
    assert look(f"a:b:charge:do:{FORWARD}", 3) == Step("a:b:charge", "do", FORWARD, FORWARD, 3)
    assert not look(f"charge:do:{FORWARD}").is_compensation


def test_current_step_of_a_compensation() -> None:
    step = look(f"charge:undo:{FORWARD}")
    assert step == Step("charge", "undo", str(uuid5(UUID(FORWARD), "undo")), FORWARD, 1)
    assert step.key == "b6258302-b20f-59a0-93ed-f7c5b4f9449b"  # frozen
    assert step.is_compensation


def test_current_step_of_a_push() -> None:
    assert look(f"undo:push:{FORWARD}") == Step("undo", "push", FORWARD, None, 1)
    assert look(f"undo:push:{FORWARD}").is_compensation


@pytest.mark.parametrize("activity_id", ["1", "a:b", "a:do:1", f"do:{FORWARD}", f"a:redo:{FORWARD}"])
def test_current_step_outside_of_a_saga(activity_id: str) -> None:
    says = (
        "is not a step of a saga: start it with saga.execute_activity(...), or as a compensation; "
        "a test has temporal_saga.testing.step_environment(...)"
    )
    with pytest.raises(RuntimeError, match=f"^activity 'unknown' {re.escape(says)}$"):
        look(activity_id)


def test_current_step_outside_of_an_activity() -> None:
    with pytest.raises(RuntimeError) as error:
        current_step()
    assert str(error.value) == (
        "current_step() outside of an activity: workflow code has saga.idempotency_key(...), "
        "a test has temporal_saga.testing.step_environment(...)"
    )
    assert not activity.in_activity()


def test_a_steps_attempts_have_one_key() -> None:
    assert {look(f"charge:do:{FORWARD}", attempt).key for attempt in range(1, 5)} == {FORWARD}


def test_keys_of_two_tasks_with_key_do_not_hang_on_their_order() -> None:
    @flow
    async def body() -> None:
        async with new_saga() as saga:
            await asyncio.gather(*[do(saga, "a", key=item) for item in "xyz"])

    first = Run(body, run_id=ANCHOR).start()
    assert len({activity.id for activity in first.scheduled}) == 3
    first.autopilot({}).check()


def test_the_seed_is_the_one_that_core_gives() -> None:
    # Read from `workflow.random_seed()` of a run on a server.
    assert seed_of("01a1fed0-ef1f-76f0-9438-75097f81c7c7") == 5069477606870796827

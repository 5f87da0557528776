"""Activities and workflows of every form, for the calls in `valid` and `invalid`."""

from __future__ import annotations

from dataclasses import dataclass

from temporalio import activity, workflow

from temporal_saga import SagaState


@dataclass
class Order:
    id: str


@dataclass
class Receipt:
    number: int


@activity.defn
async def open_till() -> int:
    return 1


@activity.defn
def open_till_sync() -> int:
    return 1


@activity.defn
async def close_till() -> None: ...


@activity.defn
async def charge(order: Order) -> Receipt:
    return Receipt(1)


@activity.defn
def charge_sync(order: Order) -> Receipt:
    return Receipt(1)


@activity.defn
async def refund(order: Order) -> None: ...


@activity.defn
def refund_sync(order: Order) -> bool:
    return True


@activity.defn
async def refund_anything(order: object) -> None: ...


@activity.defn
async def refund_receipt(receipt: Receipt) -> None: ...


@activity.defn
async def allocate(order: Order, count: int) -> str:
    return ""


@activity.defn
def allocate_sync(order: Order, count: int) -> str:
    return ""


@activity.defn
async def release(order: Order, count: int) -> None: ...


@activity.defn(name="Audit")
class Audit:
    async def __call__(self, order: Order) -> int:
        return 1


class Bank:
    @activity.defn
    async def open(self) -> int:
        return 1

    @activity.defn
    def open_sync(self) -> int:
        return 1

    @activity.defn
    async def close(self) -> None: ...

    @activity.defn
    async def withdraw(self, order: Order) -> Receipt:
        return Receipt(1)

    @activity.defn
    def withdraw_sync(self, order: Order) -> Receipt:
        return Receipt(1)

    @activity.defn
    async def refund(self, order: Order) -> None: ...

    @activity.defn
    async def move(self, order: Order, count: int) -> str:
        return ""

    @activity.defn
    def move_sync(self, order: Order, count: int) -> str:
        return ""


@workflow.defn
class Ship:
    @workflow.run
    async def run(self, order: Order) -> Receipt:
        return Receipt(1)


@workflow.defn
class Unship:
    @workflow.run
    async def run(self, order: Order) -> None: ...


@workflow.defn
class Sweep:
    @workflow.run
    async def run(self) -> int:
        return 1


@workflow.defn
class Unsweep:
    @workflow.run
    async def run(self) -> None: ...


@workflow.defn
class Pack:
    @workflow.run
    async def run(self, order: Order, count: int) -> str:
        return ""


@workflow.defn
class Onboard:
    @workflow.run
    async def run(self, order: Order) -> SagaState:
        raise NotImplementedError


async def note(text: str, *, count: int = 0) -> int:
    return count

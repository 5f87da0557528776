"""A bank in memory, a transfer as a saga and as the tutorials write it: what the tests of `explore` run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

from temporalio import activity, workflow
from temporalio.exceptions import ApplicationError

from temporal_saga import Compensation, Saga, presets

with workflow.unsafe.imports_passed_through():
    from temporal_saga import Rejected, current_step

_OPTIONS = workflow.ActivityConfig(start_to_close_timeout=timedelta(seconds=30))


class Bank:
    """Accounts whose entries happen once for each key, and not at all once they are undone."""

    def __init__(self) -> None:
        self.balance = {"A": 100, "B": 0}
        self.entries: dict[str, tuple[str, int]] = {}
        self.undone: set[str] = set()

    @property
    def activities(self) -> list[Callable[..., Any]]:
        return [self.withdraw, self.return_withdrawal, self.deposit, self.reverse_deposit]

    def total(self) -> int:
        return sum(self.balance.values())

    @activity.defn
    async def withdraw(self, amount: int) -> None:
        self.post("A", -amount)

    @activity.defn
    async def return_withdrawal(self, amount: int) -> None:
        self.reverse()

    @activity.defn
    async def deposit(self, amount: int) -> None:
        self.post("B", amount)

    @activity.defn
    async def reverse_deposit(self, amount: int) -> None:
        self.reverse()

    def post(self, account: str, amount: int) -> None:
        key = current_step().key
        if key in self.undone:
            raise Rejected("too late")
        if key not in self.entries:
            self.entries[key] = (account, amount)
            self.balance[account] += amount

    def reverse(self) -> None:
        key = current_step().forward_key or ""
        if key in self.undone:
            return
        self.undone.add(key)
        if key in self.entries:
            account, amount = self.entries[key]
            self.balance[account] -= amount


class UnfencedBank(Bank):
    """One whose undo leaves nothing behind that would refuse a late step."""

    def post(self, account: str, amount: int) -> None:
        self.undone.discard(current_step().key)
        super().post(account, amount)


class TracelessBank(Bank):
    """One whose undo deletes the entry, and leaves a trace only where it found none."""

    def reverse(self) -> None:
        key = current_step().forward_key or ""
        if key in self.entries:
            account, amount = self.entries.pop(key)
            self.balance[account] -= amount
        else:
            self.undone.add(key)


class NoReversal(Bank):
    """One whose reversals never work."""

    def reverse(self) -> None:
        raise ApplicationError("no such page", non_retryable=True)


class ClosedBank(Bank):
    """One whose deposits never work."""

    @activity.defn
    async def deposit(self, amount: int) -> None:
        raise ApplicationError("no such account", type="Closed", non_retryable=True)


class Shop(Bank):
    """One that charges, answers with the charge's id, and refunds by that id."""

    def __init__(self) -> None:
        super().__init__()
        self.charges: dict[str, str] = {}
        self.refunded: set[str] = set()

    @property
    def activities(self) -> list[Callable[..., Any]]:
        return [self.charge, self.refund, self.deposit, self.reverse_deposit]

    @activity.defn
    async def charge(self, amount: int) -> str:
        key = current_step().key
        if key in self.undone:
            raise Rejected("too late")
        known = key in self.charges
        return self.answer(self.charges.setdefault(key, self.new_id()), known)

    @activity.defn
    async def refund(self, charge: str) -> None:
        key = current_step().forward_key or ""
        self.undone.add(key)
        self.refunded.add(charge or self.charges.get(key, ""))

    def new_id(self) -> str:
        return "charge"

    def answer(self, charge: str, known: bool) -> str:
        return charge

    def refunded_all(self, simulation: Any) -> bool:
        return simulation.status == "completed" or set(self.charges.values()) <= self.refunded


class RepeatingShop(Shop):
    """One that answers a repeat without the charge's id."""

    def answer(self, charge: str, known: bool) -> str:
        return "repeated" if known else charge


class FreshIds(Shop):
    """One whose ids are new in each run, as a real one's are."""

    def new_id(self) -> str:
        return str(uuid4())


@workflow.defn
class Order:
    @workflow.run
    async def run(self, amount: int) -> str:
        async with Saga(activity_options=presets.standard()) as saga:
            charge = await saga.execute_activity_method(
                Shop.charge, amount, compensation_from=lambda step: Compensation(Shop.refund, step.result or "")
            )
            await saga.execute_activity_method(Bank.deposit, amount, compensation=Bank.reverse_deposit)
        return charge


@workflow.defn
class Transfer:
    @workflow.run
    async def run(self, amount: int) -> str:
        async with Saga(activity_options=presets.standard()) as saga:
            await saga.execute_activity_method(Bank.withdraw, amount, compensation=Bank.return_withdrawal)
            await workflow.sleep(60)
            await saga.execute_activity_method(Bank.deposit, amount, compensation=Bank.reverse_deposit)
        return "moved"


@workflow.defn
class Forgetful:
    @workflow.run
    async def run(self, amount: int) -> None:
        async with Saga(activity_options=presets.standard()) as saga:
            await saga.execute_activity_method(Bank.withdraw, amount)
            await saga.execute_activity_method(Bank.deposit, amount, compensation=Bank.reverse_deposit)


@workflow.defn
class ParallelTransfer:
    @workflow.run
    async def run(self, amount: int) -> str:
        async with Saga(activity_options=presets.standard()) as saga:
            await asyncio.gather(
                saga.execute_activity_method(Bank.withdraw, amount, compensation=Bank.return_withdrawal),
                saga.execute_activity_method(Bank.deposit, amount, compensation=Bank.reverse_deposit),
            )
        return "moved"


@workflow.defn
class LongTransfer:
    @workflow.run
    async def run(self, amount: int, steps: int) -> None:
        async with Saga(activity_options=presets.standard()) as saga:
            for _ in range(steps):
                await saga.execute_activity_method(Bank.withdraw, amount, compensation=Bank.return_withdrawal)
            await saga.execute_activity_method(Bank.deposit, amount * steps, compensation=Bank.reverse_deposit)

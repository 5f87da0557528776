"""A bank in memory, a transfer as a saga and as the tutorials write it: what the tests of `explore` run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from temporalio import activity, workflow

from temporal_saga import Saga, presets

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

"""The account: an entity that takes orders for years, several at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import Saga, presets

with workflow.unsafe.imports_passed_through():
    from .activities import Bank
    from .models import AccountData, Entry, Order

REMEMBERED = 1000
"""So many answers are kept. A client that asks again later than that makes a new order."""


@workflow.defn
class Account:
    """Keeps a balance. Each order is a saga of its own: what fails is undone, and the account goes on."""

    @workflow.init
    def __init__(self, account: AccountData) -> None:
        self._account = account
        self._balance, self._answers = account.balance, dict(account.answers)
        self._under_way: set[str] = set()
        self._orders = 0
        self._is_closed = False

    @workflow.run
    async def run(self, account: AccountData) -> int:
        """Returns the balance at the end, once the account was closed."""
        await workflow.wait_condition(lambda: self._is_closed or self._is_long)
        # An order belongs to the run that took it. The sagas of handlers do not go on in the next run.
        await workflow.wait_condition(workflow.all_handlers_finished)
        if not self._is_closed:
            latest = dict(list(self._answers.items())[-REMEMBERED:])
            workflow.continue_as_new(dataclasses.replace(account, balance=self._balance, answers=latest))
        return self._balance

    @workflow.update
    async def bring_in(self, order: Order) -> str:
        """Takes money from the card."""
        async with self._order(order) as saga:
            if saga is not None:
                await saga.execute_activity_method(Bank.charge, order, key=order.id, compensation=Bank.refund)
                await self._book(saga, order, order.amount)
                self._balance += order.amount
        return self._answers[order.id]

    @workflow.update
    async def pay_out(self, order: Order) -> str:
        """Gives money to the card."""
        async with self._order(order) as saga:
            if saga is not None:
                # Before the first await: what the next order may spend is less by now.
                self._balance -= order.amount
                saga.add_callback(self._put_back, order.amount)
                await self._book(saga, order, -order.amount)
                await saga.execute_activity_method(Bank.pay_out, order, key=order.id, compensation=Bank.recall)
        return self._answers[order.id]

    @bring_in.validator
    def _validate_bring_in(self, order: Order) -> None:
        self._check(order)

    @pay_out.validator
    def _validate_pay_out(self, order: Order) -> None:
        self._check(order)
        if self._is_new(order) and order.amount > self._balance:
            raise ValueError(f"the balance is {self._balance}")

    @workflow.signal
    def close(self) -> None:
        """Takes no more orders, and ends."""
        self._is_closed = True

    @workflow.query
    def balance(self) -> int:
        """The balance; what is being paid out is not in it any more."""
        return self._balance

    @asynccontextmanager
    async def _order(self, order: Order) -> AsyncGenerator[Saga | None]:
        """Gives an order's saga, or None for an order that was made before. A no is an answer; a fault is raised."""
        if not self._is_new(order):
            await workflow.wait_condition(lambda: order.id not in self._under_way)
            if order.id not in self._answers:
                raise ApplicationError("the first try failed: ask again", type="TryAgain")
            yield None
            return
        self._under_way.add(order.id)
        try:
            async with Saga("order", activity_options=presets.standard()) as saga:
                yield saga
            self._answers[order.id] = "done"
        except ActivityError as error:
            answer = error.cause
            if not isinstance(answer, ApplicationError) or answer.type != "Declined":
                raise
            self._answers[order.id] = answer.message
        finally:
            self._under_way.discard(order.id)
            self._orders += 1

    async def _book(self, saga: Saga, order: Order, amount: int) -> None:
        entry = Entry(self._account.owner, order.id, amount)
        await saga.execute_activity_method(Bank.book, entry, key=order.id, compensation=Bank.strike)

    def _put_back(self, amount: int) -> None:
        self._balance += amount

    def _check(self, order: Order) -> None:
        if self._is_closed:
            raise ValueError("the account is closed")
        if order.amount <= 0:
            raise ValueError(f"{order.amount} is not an amount")

    def _is_new(self, order: Order) -> bool:
        return order.id not in self._under_way and order.id not in self._answers

    @property
    def _is_long(self) -> bool:
        return self._orders >= self._account.orders_per_run or workflow.info().is_continue_as_new_suggested()

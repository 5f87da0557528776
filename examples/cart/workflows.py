"""The cart: an entity that lives until it is checked out or expires."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

from temporalio import workflow

from temporal_saga import Saga, SagaDeadlineExceeded, presets

with workflow.unsafe.imports_passed_through():
    from .activities import Shop
    from .models import CartData, CartStatus, Line, Payment, State


@workflow.defn
class Cart:
    """Keeps goods for a customer. Each line is a step; taking it out undoes that step alone."""

    @workflow.init
    def __init__(self, cart: CartData) -> None:
        self._cart = cart
        self._lines, self._ids = dict(cart.lines), set(cart.ids)
        # The name, the keys and what is left of the deadline come with the state.
        deadline = timedelta(seconds=cart.expires_after)
        self._saga = Saga("cart", activity_options=presets.standard(), deadline=deadline, state=cart.saga)
        self._state, self._checkouts = State.OPEN, cart.checkouts
        self._is_open = self._is_paying = False
        self._changes = self._changing = 0

    @workflow.run
    async def run(self, cart: CartData) -> CartStatus:
        """Returns how it ended."""
        try:
            async with self._saga as saga:
                self._is_open = True
                await workflow.wait_condition(lambda: self._state is State.CHECKED_OUT or self._is_long)
                # An update that is under way belongs to this run, and no step may be in flight at a detach.
                await workflow.wait_condition(workflow.all_handlers_finished)
                if self._state is not State.CHECKED_OUT:
                    workflow.continue_as_new(self._handed_over())
                saga.pivot()
                lines = sorted(self._lines)
                await saga.execute_activity_method(Shop.ship, args=[cart.customer, lines], **presets.forward_only())
        except SagaDeadlineExceeded:
            self._state, self._lines = State.EXPIRED, {}
        return self.status()

    @workflow.update
    async def add(self, line: Line) -> int:
        """Adds a line, and returns what it costs. Fails if the product is out of stock."""
        self._ids.add(line.id)  # before the first await: the validator of the next update sees it
        async with self._change():
            # An id is used once, so it is the step's key: no counter has to survive.
            price = await self._saga.execute_activity_method(Shop.reserve, line, key=line.id, compensation=Shop.release)
            self._lines[line.id] = price
            return price

    @add.validator
    def _validate_add(self, line: Line) -> None:
        self._refuse_if_closed()
        if line.id in self._ids:
            raise ValueError(f"line {line.id} has been added")
        if line.quantity < 1:
            raise ValueError(f"{line.quantity} is not a quantity")
        if self._state_bytes > self._cart.max_bytes:
            raise ValueError("the cart is full")

    @workflow.update
    async def remove(self, line_id: str) -> None:
        """Takes a line out."""
        del self._lines[line_id]
        async with self._change():
            await self._saga.undo(Shop.reserve, key=line_id)

    @remove.validator
    def _validate_remove(self, line_id: str) -> None:
        self._refuse_if_closed()
        if line_id not in self._lines:
            raise ValueError(f"the cart has no line {line_id}")

    @workflow.update
    async def check_out(self, card: str) -> int:
        """Pays, and returns the amount. If the card is declined, the cart stays as it was."""
        self._is_paying = True
        self._checkouts += 1
        try:
            await workflow.wait_condition(lambda: self._is_open and not self._changing)
            payment = Payment(card, self._total)
            await self._saga.execute_activity_method(
                Shop.pay, payment, key=str(self._checkouts), compensation=Shop.refund
            )
            self._state = State.CHECKED_OUT
            return payment.amount
        finally:
            self._is_paying = False

    @check_out.validator
    def _validate_check_out(self, card: str) -> None:
        self._refuse_if_closed()
        if not self._lines and not self._changing:
            raise ValueError("the cart is empty")

    @workflow.query
    def status(self) -> CartStatus:
        """What is in the cart."""
        return CartStatus(self._state, self._lines, self._total, self._state_bytes)

    @property
    def _total(self) -> int:
        return sum(self._lines.values())

    @property
    def _state_bytes(self) -> int:
        saga = self._cart.saga
        return (saga.size if saga is not None else 0) + sum(map(len, self._cart.ids))

    @property
    def _is_long(self) -> bool:
        return self._changes >= self._cart.changes_per_run or workflow.info().is_continue_as_new_suggested()

    def _refuse_if_closed(self) -> None:
        if self._is_paying or self._state is not State.OPEN:
            raise ValueError("the cart is being checked out, or has been")

    def _handed_over(self) -> CartData:
        state = self._saga.detach()
        workflow.logger.info("the saga's state has %d bytes", state.size)
        return dataclasses.replace(
            self._cart, lines=self._lines, ids=sorted(self._ids), checkouts=self._checkouts, saga=state
        )

    @asynccontextmanager
    async def _change(self) -> AsyncGenerator[None]:
        """One change under way: a check-out waits for it."""
        self._changing += 1
        try:
            # An update may come before the main method has begun.
            await workflow.wait_condition(lambda: self._is_open)
            yield
        finally:
            self._changing -= 1
            self._changes += 1

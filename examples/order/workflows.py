"""The order, its messages, and the daily report."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import Declined, Saga, business_key, presets

with workflow.unsafe.imports_passed_through():
    from .activities import Shop
    from .models import (
        STATUS,
        Booking,
        Message,
        Order,
        OrderState,
        OrderStatus,
        Payment,
        PickOrder,
        Report,
        Review,
        Shipment,
        describe,
        format_amount,
    )

SHIP_WITHIN = timedelta(days=7)
REVIEW_WITHIN = timedelta(hours=24)
MAILS_APART = timedelta(minutes=1)


@workflow.defn(name="Order")
class OrderWorkflow:
    """Sells the goods: an order is shipped, or everything it did is undone."""

    def __init__(self) -> None:
        self._state = OrderState()
        self._notify: workflow.ChildWorkflowHandle[Notify, None] | None = None
        self._review: Review | None = None
        self._review_is_due = False
        self._tracking_number: str | None = None
        self._cancel_reason: str | None = None

    @workflow.run
    async def run(self, order: Order) -> OrderState:
        """Fulfills the order, and returns how it ended. A refusal is a result, not a failure."""
        try:
            await self._fulfil(order)
        except (ActivityError, Declined) as error:
            answer = error.cause if isinstance(error, ActivityError) else error
            if not isinstance(answer, ApplicationError) or answer.type != "Declined":
                raise
            # The saga has been unwound by now: only the answer is left.
            self._set(OrderState(OrderStatus(answer.details[0]), answer.message))
        if self._state.status is OrderStatus.NOT_SHIPPED:
            key = business_key("support", order.id, self._state.status.value)
            ticket = Message(key, "support", "support", f"{order.id}: {describe(self._state)}")
            await workflow.execute_activity_method(Shop.send, ticket, **presets.forward_only())
        await self._tell_customer(order, is_last=True)
        return self._state

    # The handlers only record. What to do about it is decided in one place, the main method, and
    # what came first counts: a parcel that has left cannot be cancelled.

    @workflow.signal
    def shipment_ready(self, tracking_number: str) -> None:
        """The parcel has left the warehouse."""
        if self._cancel_reason is None:
            self._tracking_number = tracking_number

    @workflow.signal
    def cancel_order(self, reason: str) -> None:
        """The customer no longer wants it."""
        if self._tracking_number is None:
            self._cancel_reason = reason

    @workflow.update
    async def review(self, review: Review) -> None:
        """Approves or rejects an order over the limit."""
        self._review = review

    @review.validator
    def _validate_review(self, review: Review) -> None:
        if not review.reviewer.strip():
            raise ValueError("a review needs the reviewer's name")
        if not self._review_is_due or self._review is not None:
            raise ValueError("no review is due")

    @workflow.query
    def order_status(self) -> OrderState:
        """Where the order stands."""
        return self._state

    async def _fulfil(self, order: Order) -> None:
        total = await workflow.execute_activity_method(Shop.validate, order, **presets.fast())  # reads
        # Standard: the payment provider and the warehouse are others' systems, which honour our keys.
        async with Saga("order", activity_options=presets.standard()) as saga:
            self._enter(OrderStatus.PAYING)
            await asyncio.gather(
                saga.execute_activity_method(Shop.charge, Payment(order.card, total), compensation=Shop.refund),
                # Conflict: the orders of a product that sells well meet at its row.
                saga.execute_activity_method(Shop.allocate, order, compensation=Shop.release, **presets.conflict()),
            )
            # After the payment, so that an approved order has its money and its goods.
            if order.review_over is not None and total > order.review_over:
                await self._wait_for_review(order)
            self._enter(OrderStatus.BOOKING)
            label = await self._book_carrier(saga, order)

            self._enter(OrderStatus.CONFIRMED)
            await self._tell_customer(order)
            await saga.execute_activity_method(
                Shop.notify_warehouse, PickOrder(order.id, label), compensation=Shop.recall_from_warehouse
            )
            tracking_number = await self._wait_for_shipment()

            # The point of no return is where the parcel leaves: until then all can be taken back,
            # from then on nothing can.
            saga.pivot()
            await saga.execute_activity_method(
                Shop.record_shipment, Shipment(order.id, tracking_number), **presets.forward_only()
            )
        self._set(OrderState(OrderStatus.SHIPPED, tracking_number=tracking_number))

    async def _book_carrier(self, saga: Saga, order: Order) -> str:
        """Tries the carriers in turn, and returns the label of the first that takes the order."""
        for carrier in order.carriers:
            booking = Booking(order.id, carrier)
            try:
                # Fast: no carrier is waited for while there is another.
                async with saga.savepoint() as attempt:
                    await attempt.execute_activity_method(
                        Shop.book_pickup, booking, compensation=Shop.cancel_pickup, **presets.fast()
                    )
                    return await attempt.execute_activity_method(
                        Shop.print_label, booking, compensation=Shop.void_label, **presets.fast()
                    )
            except ActivityError:
                # This carrier's steps are undone, the payment and the goods are kept.
                workflow.logger.info("carrier %s does not take the order", carrier)
        raise Declined("no carrier takes the order", OrderStatus.NO_CARRIER)

    async def _wait_for_review(self, order: Order) -> None:
        self._enter(OrderStatus.REVIEWING)
        await self._tell_customer(order)
        self._review_is_due = True
        try:
            await workflow.wait_condition(
                lambda: self._review is not None or self._cancel_reason is not None, timeout=REVIEW_WITHIN
            )
        except asyncio.TimeoutError:
            pass  # looked at below: an answer may have come with the timer
        finally:
            self._review_is_due = False  # an answer that comes from now on is refused
        self._stop_if_cancelled()
        if self._review is None:
            raise Declined("no review in time", OrderStatus.REJECTED)
        if not self._review.approved:
            raise Declined(f"rejected by {self._review.reviewer}", OrderStatus.REJECTED)

    async def _wait_for_shipment(self) -> str:
        # A timeout decides nothing: a signal may have come with the timer.
        with suppress(asyncio.TimeoutError):
            await workflow.wait_condition(
                lambda: self._tracking_number is not None or self._cancel_reason is not None, timeout=SHIP_WITHIN
            )
        self._stop_if_cancelled()
        if self._tracking_number is None:
            late = f"not shipped within {SHIP_WITHIN.days} days"
            raise Declined(late, OrderStatus.NOT_SHIPPED)
        return self._tracking_number

    def _enter(self, status: OrderStatus) -> None:
        self._stop_if_cancelled()
        self._set(OrderState(status))

    def _stop_if_cancelled(self) -> None:
        if self._cancel_reason is not None:
            raise Declined(self._cancel_reason, OrderStatus.CANCELLED)

    def _set(self, state: OrderState) -> None:
        self._state = state
        # A server that does not know the attribute fails the workflow task, forever. It refuses a start with the
        # attribute, too. So an order that was started with it can go on.
        if workflow.info().typed_search_attributes.get(STATUS) is not None:
            workflow.upsert_search_attributes([STATUS.value_set(state.status.value)])

    async def _tell_customer(self, order: Order, *, is_last: bool = False) -> None:
        """Tells the customer where the order stands."""
        event = describe(self._state)
        if self._notify is not None and not self._notify.done():
            with suppress(ApplicationError):  # it has just closed
                await self._notify.signal(Notify.tell, args=[event, is_last])
                return
        # In a child that outlives the order: a mail server that is down delays no parcel, and the
        # mail of a run that closes is still sent. Not a step of the saga: a mail needs no undo.
        self._notify = await workflow.start_child_workflow(
            Notify.run,
            args=[order.id, order.email, event, is_last],
            parent_close_policy=workflow.ParentClosePolicy.ABANDON,
        )


@workflow.defn
class Notify:
    """Mails what happens to an order: at most one mail a minute, with all that has happened; and one at the end.

    It closes when nothing has happened for a minute. The order then starts another one.
    """

    def __init__(self) -> None:
        self._news: list[str] = []
        self._is_last = False

    @workflow.run
    async def run(self, order_id: str, to: str, event: str, is_last: bool) -> None:
        """Mails the event, and those that come meanwhile, however long that takes."""
        self._news.insert(0, event)  # a signal may have come before
        self._is_last = self._is_last or is_last
        while self._news:
            text, self._news = "; ".join(self._news), []
            # One mail for the same news, however often it is sent.
            message = Message(business_key("mail", order_id, text), "mail", to, f"{order_id}: {text}")
            try:
                await workflow.execute_activity_method(Shop.send, message, **presets.forward_only())
            except ActivityError:
                workflow.logger.error("not mailed: %s", message.text)  # the next mail may succeed
            with suppress(asyncio.TimeoutError):
                await workflow.wait_condition(lambda: self._is_last, timeout=MAILS_APART)

    @workflow.signal
    def tell(self, event: str, is_last: bool) -> None:
        """Something has happened."""
        self._news.append(event)
        self._is_last = is_last


@workflow.defn
class DailyReport:
    """Mails the shop's numbers to its owner. Run by a schedule."""

    @workflow.run
    async def run(self) -> Report:
        """Sends the report, and returns it."""
        report = await workflow.execute_activity_method(Shop.report, **presets.standard())
        left = ", ".join(f"{count} {sku}" for sku, count in report.on_hand.items())
        text = f"{report.shipped} shipped, {format_amount(report.paid)} paid, left: {left}"
        # A schedule names each of its runs by its time: one mail for each.
        key = business_key("report", workflow.info().workflow_id)
        message = Message(key, "mail", "owner@shop.example", text)
        await workflow.execute_activity_method(Shop.send, message, **presets.standard())
        return report

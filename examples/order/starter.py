"""What customers, the warehouse and the shop's owner do: `python -m examples.order.starter`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from temporalio.client import (
    Client,
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleCalendarSpec,
    ScheduleHandle,
    ScheduleRange,
    ScheduleSpec,
    WorkflowHandle,
)
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy

from .models import STATUS, Line, Order, OrderState, OrderStatus, Review, describe
from .store import Store
from .worker import DATABASE, TASK_QUEUE, connect, run_program
from .workflows import DailyReport, OrderWorkflow

SCHEDULE = "order-daily-report"


async def place_order(
    client: Client, order: Order, task_queue: str = TASK_QUEUE, *, listed: bool = False
) -> WorkflowHandle[OrderWorkflow, OrderState]:
    """Starts an order. Each order number is used once, even if the order fails.

    Args:
        client: The client.
        order: The order.
        task_queue: The worker's task queue.
        listed: Whether the list of workflows shows its status. The server has to know the search attribute.
    """
    status = [SearchAttributePair(STATUS, OrderStatus.RECEIVED.value)] if listed else []
    return await client.start_workflow(
        OrderWorkflow.run,
        order,
        id=order.id,
        task_queue=task_queue,
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
        search_attributes=TypedSearchAttributes(status),
    )


async def orders_in(client: Client, status: OrderStatus) -> list[str]:
    """The numbers of the orders that are listed with that status, for those whose turn it is now."""
    return [run.id async for run in client.list_workflows(f"{STATUS.name} = '{status.value}'")]


async def schedule_report(
    client: Client, task_queue: str = TASK_QUEUE, schedule_id: str = SCHEDULE, time_zone: str = "UTC"
) -> ScheduleHandle:
    """Schedules the daily report on weekdays at 9. Does nothing if that has been done."""
    weekdays_at_9 = ScheduleCalendarSpec(
        day_of_week=[ScheduleRange(1, 5)], hour=[ScheduleRange(9)], comment="weekdays at 9"
    )
    action = ScheduleActionStartWorkflow(DailyReport.run, id=schedule_id, task_queue=task_queue)
    spec = ScheduleSpec(calendars=[weekdays_at_9], time_zone_name=time_zone)
    try:
        return await client.create_schedule(schedule_id, Schedule(action=action, spec=spec))
    except ScheduleAlreadyRunningError:
        return client.get_schedule_handle(schedule_id)


async def run(options: argparse.Namespace) -> None:
    """Does what the command line asks of a server."""
    client = await connect()
    if options.command == "schedule-report":
        handle = await schedule_report(client, options.task_queue, time_zone=options.time_zone)
        print(f"schedule {handle.id}: weekdays at 9, {options.time_zone}")
        if options.now:
            await handle.trigger()
        return
    if options.command == "list":
        print(*await orders_in(client, options.status), sep="\n")
        return
    if options.command == "place":
        order = Order(options.id, options.email, options.card, options.lines, review_over=options.review_over)
        await place_order(client, order, options.task_queue, listed=options.listed)
    order_handle = client.get_workflow_handle(options.id, result_type=OrderState)
    if options.command == "ship":
        await order_handle.signal(OrderWorkflow.shipment_ready, options.tracking_number)
    elif options.command == "cancel":
        await order_handle.signal(OrderWorkflow.cancel_order, options.reason)
    elif options.command == "review":
        review = Review(options.answer == "approve", options.reviewer)
        await order_handle.execute_update("review", review)
    elif options.wait:
        print(describe(await order_handle.result()))
    elif options.command == "place":
        print(f"placed {options.id}")  # without a worker it waits, and answers no query
    else:
        print(describe(await order_handle.query(OrderWorkflow.order_status)))


def parse_line(text: str) -> Line:
    """Reads "teapot" or "teapot:2"."""
    sku, _, quantity = text.partition(":")
    return Line(sku, int(quantity or 1))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.order.starter",
        description="Places orders and tells them what happens. TEMPORAL_ADDRESS names the server.",
    )
    parser.add_argument("--task-queue", default=TASK_QUEUE, help="the worker's task queue")
    commands = parser.add_subparsers(dest="command", required=True)

    place = commands.add_parser("place", help="place an order")
    place.add_argument("id", help="the order's number; each is used once")
    place.add_argument("lines", nargs="+", type=parse_line, metavar="SKU[:QUANTITY]")
    place.add_argument("--card", default="4242", help="4242 has money, 4000 has none")
    place.add_argument("--email", default="customer@example.com")

    place.add_argument("--review-over", type=int, metavar="CENTS", help="a person looks at an order that costs more")
    place.add_argument("--listed", action="store_true", help="show its status in the list of workflows")

    review = commands.add_parser("review", help="approve or reject an order over the limit")
    review.add_argument("id")
    review.add_argument("answer", choices=["approve", "reject"])
    review.add_argument("--reviewer", default="eve")

    ship = commands.add_parser("ship", help="say that the parcel has left")
    ship.add_argument("id")
    ship.add_argument("tracking_number")

    cancel = commands.add_parser("cancel", help="cancel an order for the customer")
    cancel.add_argument("id")
    cancel.add_argument("reason")

    status = commands.add_parser("status", help="show where an order stands")
    status.add_argument("id")
    for command in (place, status):
        command.add_argument("--wait", action="store_true", help="wait until the order has ended")

    listing = commands.add_parser("list", help="list the orders with a status, of those placed with --listed")
    listing.add_argument("status", type=OrderStatus, help=", ".join(each.value for each in OrderStatus))

    report = commands.add_parser("schedule-report", help="schedule the report, weekdays at 9")
    report.add_argument("--time-zone", default="UTC", help="an IANA name, such as Europe/Vienna")
    report.add_argument("--now", action="store_true", help="run it once now as well")

    books = commands.add_parser("books", help="show stock, money and messages")
    books.add_argument("--db", default=DATABASE, help="the worker's SQLite file")
    return parser.parse_args(arguments)


def main() -> None:
    """Reads the command line and does what it asks."""
    options = parse()
    if options.command == "books":
        print(Store(options.db).table())
    else:
        run_program(run(options))


if __name__ == "__main__":
    main()

"""Order a transfer, or answer its review, from the command line."""

from __future__ import annotations

import argparse
import sys
from uuid import uuid4

from temporalio.client import Client, WorkflowFailureError, WorkflowHandle, WorkflowUpdateFailedError
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import FailureError, WorkflowAlreadyStartedError
from temporalio.service import RPCError

from .models import Decision, Review, Transfer, TransferResult, format_amount, to_minor_units
from .worker import TASK_QUEUE, connect, run_program
from .workflows import MoneyTransfer


async def start(
    client: Client, transfer: Transfer, task_queue: str = TASK_QUEUE
) -> WorkflowHandle[MoneyTransfer, TransferResult]:
    """Starts a transfer. Its id is used once: the same order again must not move money again."""
    return await client.start_workflow(
        MoneyTransfer.run,
        transfer,
        id=workflow_id(transfer.id),
        task_queue=task_queue,
        id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
    )


def workflow_id(transfer_id: str) -> str:
    """The id of the workflow that carries out a transfer."""
    return f"money-transfer-{transfer_id}"


def root_cause(error: BaseException) -> str:
    """The message at the end of the chain: what went wrong in the first place."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error.message if isinstance(error, FailureError) else str(error)


async def run(arguments: argparse.Namespace) -> None:
    """Starts the transfer that the arguments order, sends the review they give, and waits."""
    client = await connect()
    if arguments.source is not None:
        transfer = Transfer(
            id=arguments.id,
            source=arguments.source,
            target=arguments.target,
            amount=to_minor_units(arguments.amount, arguments.currency),
            currency=arguments.currency,
        )
        amount = format_amount(transfer.amount, transfer.currency)
        handle = await start(client, transfer, arguments.task_queue)
        print(f"Started {handle.id}: {amount} from {transfer.source} to {transfer.target}")
    else:
        handle = client.get_workflow_handle_for(MoneyTransfer.run, workflow_id(arguments.id))
    if arguments.review is not None:
        review = Review(Decision(arguments.review), arguments.reviewer)
        # By name: of the checkers we run, only mypy understands the SDK's types for updates.
        await handle.execute_update("review", review)  # pyright: ignore[reportUnknownMemberType]
    if arguments.wait:
        print(await handle.result())
    else:
        print((await handle.query(MoneyTransfer.transfer_status)).value)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.money_transfer.starter",
        description="Order a transfer, or answer the review of one that is waiting.",
        epilog="The server is the one that TEMPORAL_ADDRESS names (default localhost:7233). "
        "The accounts are in the worker's ledger.",
    )
    parser.add_argument("--id", default=uuid4().hex[:8], help="the transfer's id, used once")
    parser.add_argument("--from", dest="source", metavar="ACCOUNT")
    parser.add_argument("--to", dest="target", metavar="ACCOUNT")
    parser.add_argument("--amount", help="such as 250.00; over 10,000.00 needs a review")
    parser.add_argument("--currency", default="EUR")
    parser.add_argument("--review", choices=[decision.value for decision in Decision])
    parser.add_argument("--reviewer", default="", help="who answers the review")
    parser.add_argument("--no-wait", dest="wait", action="store_false", help="print the status and leave")
    parser.add_argument("--task-queue", default=TASK_QUEUE)
    arguments = parser.parse_args()
    order = [arguments.source, arguments.target, arguments.amount]
    if any(order) and not all(order):
        parser.error("--from, --to and --amount go together")
    try:
        run_program(run(arguments))
    except ValueError as error:
        parser.error(str(error))
    except (WorkflowFailureError, WorkflowUpdateFailedError, WorkflowAlreadyStartedError) as error:
        sys.exit(f"error: {root_cause(error)}")
    except RPCError as error:
        sys.exit(f"error: {error.message}")


if __name__ == "__main__":
    main()

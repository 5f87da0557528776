"""A transfer between two accounts."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from temporalio import activity, workflow
from temporalio.exceptions import ActivityError, ApplicationError

from temporal_saga import Compensation, Saga, StepOutcome, current_step, presets
from temporal_saga.testing import SimulatedHandle, Simulation
from tests.kit.corpus.case import Buggy, Correct
from tests.kit.corpus.ledger import Ledger, step_key

STANDARD = presets.standard()


class Bank:
    """Two accounts; a client may be paid a salary while a transfer waits."""

    def __init__(self) -> None:
        self.books = Ledger(A=100, B=0)
        self.salary = 0
        self.activities: list[Callable[..., Any]] = [
            self.withdraw,
            self.deposit,
            self.return_withdrawal,
            self.reverse_deposit,
            self.pay_back,
        ]

    @activity.defn
    async def withdraw(self, amount: int) -> str:
        self.books.enter("A", -amount)
        return current_step().key

    @activity.defn
    async def deposit(self, amount: int) -> str:
        self.books.enter("B", amount)
        return current_step().key

    @activity.defn
    async def return_withdrawal(self, amount: int) -> None:
        self.books.reverse()

    @activity.defn
    async def reverse_deposit(self, amount: int) -> None:
        self.books.reverse()

    @activity.defn
    async def pay_back(self, amount: int) -> None:
        """Credit A, once for each key: for compensations that are pushed by hand."""
        self.books.enter("A", amount, activity.info().activity_id)


def conserved(bank: Bank, simulation: Simulation[Any]) -> None:
    moved = 30 if simulation.status == "completed" else 0
    assert (bank.books["A"], bank.books["B"]) == (100 + bank.salary - moved, moved)


@workflow.defn
class Transfer:
    @workflow.run
    async def run(self, amount: int) -> None:
        async with Saga(activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Bank.withdraw, amount, compensation=Bank.return_withdrawal)
            await saga.execute_activity_method(Bank.deposit, amount, compensation=Bank.reverse_deposit)


@workflow.defn
class TransferAfterAWait:
    @workflow.run
    async def run(self, amount: int) -> None:
        async with Saga(activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Bank.withdraw, amount, compensation=Bank.return_withdrawal)
            await workflow.sleep(60)
            await saga.execute_activity_method(Bank.deposit, amount, compensation=Bank.reverse_deposit)


class PayingBank(Bank):
    """A gets a salary while a transfer waits."""

    async def client(self, handle: SimulatedHandle[Any]) -> None:
        await asyncio.sleep(30)
        self.salary = 500
        self.books.add("A", 500)


class ReturnsEachTime(Bank):
    @activity.defn
    async def return_withdrawal(self, amount: int) -> None:
        if step_key() in self.books.applied:
            self.books.add("A", amount)
        self.books.reversed.add(step_key())


class DepositsEachTime(Bank):
    @activity.defn
    async def deposit(self, amount: int) -> str:
        key = current_step().key
        if key in self.books.reversed:
            raise ApplicationError("reversed before it came", non_retryable=True)
        self.books.applied[key] = ("B", self.books.applied.get(key, ("B", 0))[1] + amount)
        self.books.add("B", amount)
        return key


class RefusesWhatNeverCame(Bank):
    @activity.defn
    async def return_withdrawal(self, amount: int) -> None:
        if step_key() not in self.books.applied:
            raise ApplicationError("there is no such withdrawal", type="NotFound", non_retryable=True)
        self.books.reverse()


class KeyOfTheAttempt(Bank):
    @activity.defn
    async def deposit(self, amount: int) -> str:
        if current_step().key in self.books.reversed:
            raise ApplicationError("reversed before it came", non_retryable=True)
        self.books.enter("B", amount, f"{current_step().key}/{current_step().attempt}")
        return current_step().key

    @activity.defn
    async def reverse_deposit(self, amount: int) -> None:
        self.books.reversed.add(step_key())
        for key in [key for key in self.books.applied if key.startswith(step_key())]:
            self.books.reverse(key)


class KeepsTheFee(Bank):
    """1 of what is withdrawn is a fee, which the return forgets."""

    @activity.defn
    async def return_withdrawal(self, amount: int) -> None:
        if step_key() in self.books.applied and step_key() not in self.books.reversed:
            self.books.add("A", amount - 1)
        self.books.reversed.add(step_key())


class RestoresASnapshot(PayingBank):
    """The undo sets the balance to what it was before the step."""

    def __init__(self) -> None:
        super().__init__()
        self.before: dict[str, int] = {}

    @activity.defn
    async def withdraw(self, amount: int) -> str:
        self.before.setdefault(current_step().key, self.books["A"])
        return await super().withdraw(amount)

    @activity.defn
    async def return_withdrawal(self, amount: int) -> None:
        if step_key() in self.books.applied and step_key() not in self.books.reversed:
            self.books.totals["A"] = self.before[step_key()]
        self.books.reversed.add(step_key())


@dataclass
class Receipt:
    number: str
    amount: int


class WantsAReceipt(Bank):
    def __init__(self) -> None:
        super().__init__()
        self.activities.append(self.return_receipt)

    @activity.defn
    async def return_receipt(self, receipt: Receipt) -> None:
        self.books.reverse(receipt.number)


class ForgotToRegister(Bank):
    def __init__(self) -> None:
        super().__init__()
        self.activities.remove(self.return_withdrawal)


class ForgetsWhatItReversed(Bank):
    """The rows of a withdrawal are deleted by its undo, and nothing is left of it."""

    @activity.defn
    async def return_withdrawal(self, amount: int) -> None:
        if self.books.applied.pop(step_key(), None):
            self.books.add("A", amount)


class LooksForThePair(Bank):
    """The undo of the withdrawal finds its row by way of the deposit, which has been taken back by then."""

    @activity.defn
    async def reverse_deposit(self, amount: int) -> None:
        self.books.reverse()
        self.books.totals.pop("pair", None)

    @activity.defn
    async def deposit(self, amount: int) -> str:
        key = await super().deposit(amount)
        self.books.totals["pair"] = 1
        return key

    @activity.defn
    async def return_withdrawal(self, amount: int) -> None:
        deposited = any(account == "B" for account, _ in self.books.applied.values())
        if deposited and "pair" not in self.books.totals:
            self.books.reversed.add(step_key())  # "this transfer is not known any more: nothing to return"
            return
        self.books.reverse()


@workflow.defn
class GivesUp:
    @workflow.run
    async def run(self, amount: int) -> None:
        async with Saga(activity_options=STANDARD, compensation_options=presets.no_retry()) as saga:
            await saga.execute_activity_method(Bank.withdraw, amount, compensation=Bank.return_withdrawal)
            await saga.execute_activity_method(Bank.deposit, amount, compensation=Bank.reverse_deposit)


@workflow.defn
class ArmsAfterwards:
    @workflow.run
    async def run(self, amount: int) -> None:
        async with Saga(activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Bank.withdraw, amount)
            saga.add_compensation(Bank.pay_back, amount)
            await saga.execute_activity_method(Bank.deposit, amount, compensation=Bank.reverse_deposit)


@workflow.defn
class ReturnsByHandToo:
    @workflow.run
    async def run(self, amount: int) -> None:
        async with Saga(activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Bank.withdraw, amount, compensation=Bank.return_withdrawal)
            try:
                await saga.execute_activity_method(Bank.deposit, amount, compensation=Bank.reverse_deposit)
            except ActivityError:
                await workflow.execute_activity_method(Bank.pay_back, amount, **STANDARD)
                raise


@workflow.defn
class SendsAnAmountForAReceipt:
    @workflow.run
    async def run(self, amount: int) -> None:
        async with Saga(activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Bank.withdraw, amount, compensation="return_receipt")
            await saga.execute_activity_method(Bank.deposit, amount, compensation=Bank.reverse_deposit)


def _only_with_a_receipt(step: StepOutcome[int, str]) -> Compensation | None:
    return Compensation("return_receipt", Receipt(step.result, step.input)) if step.result else None


def _a_receipt_either_way(step: StepOutcome[int, str]) -> Compensation:
    return Compensation("return_receipt", Receipt(step.result or step.key, step.input))


@workflow.defn
class NeedsTheResult:
    @workflow.run
    async def run(self, amount: int) -> None:
        async with Saga(activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Bank.withdraw, amount, compensation_from=_only_with_a_receipt)
            await saga.execute_activity_method(Bank.deposit, amount, compensation=Bank.reverse_deposit)


@workflow.defn
class FindsItByItsKey:
    @workflow.run
    async def run(self, amount: int) -> None:
        async with Saga(activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Bank.withdraw, amount, compensation_from=_a_receipt_either_way)
            await saga.execute_activity_method(Bank.deposit, amount, compensation=Bank.reverse_deposit)


@workflow.defn
class Parsed:
    """The undo parses the step's result, also that of a step whose result is unknown."""

    @workflow.run
    async def run(self, amount: int) -> None:
        def by_number(step: StepOutcome[int, str]) -> Compensation:
            number: Any = step.result
            return Compensation("return_receipt", Receipt(number.strip(), step.input))

        async with Saga(activity_options=STANDARD) as saga:
            await saga.execute_activity_method(Bank.withdraw, amount, compensation_from=by_number)
            await saga.execute_activity_method(Bank.deposit, amount, compensation=Bank.reverse_deposit)


CORRECT = [
    Correct(name="transfer", run=Transfer.run, args=(30,), setup=Bank, check=conserved),
    Correct(name="transfer-wait", run=TransferAfterAWait.run, args=(30,), setup=PayingBank, check=conserved),
    Correct(name="transfer-receipt", run=FindsItByItsKey.run, args=(30,), setup=WantsAReceipt, check=conserved),
]


def _buggy(name: str, culprit: tuple[str, ...], bug: str, expected: str, **changes: Any) -> Buggy:
    base: dict[str, Any] = {"run": Transfer.run, "args": (30,), "setup": Bank, "check": conserved}
    return Buggy(name=name, culprit=culprit, bug=bug, expected=expected, **(base | changes))


BUGGY = [
    _buggy(
        "undo-not-idempotent",
        ("withdraw:undo", "return_withdrawal"),
        "The undo credits the account each time that it is called.",
        "the check objects once the undo of withdraw has run twice",
        setup=ReturnsEachTime,
    ),
    _buggy(
        "step-not-idempotent",
        ("deposit",),
        "The deposit ignores its key: a second attempt deposits again.",
        "the check objects once deposit has run twice",
        setup=DepositsEachTime,
    ),
    _buggy(
        "undo-refuses-nothing",
        ("withdraw:undo", "return_withdrawal"),
        "The undo fails for good if the withdrawal never came.",
        "the undo of withdraw fails by itself, after fails_before('withdraw')",
        setup=RefusesWhatNeverCame,
    ),
    _buggy(
        "key-of-the-attempt",
        ("deposit",),
        "The idempotency key has the number of the attempt in it.",
        "the check objects once deposit has run twice",
        setup=KeyOfTheAttempt,
    ),
    _buggy(
        "fee-not-returned",
        ("withdraw", "deposit"),  # any failure shows it; its plan strikes one of the two steps
        "The undo gives back the amount without the fee.",
        "the check objects once the withdrawal has been undone",
        setup=KeepsTheFee,
    ),
    _buggy(
        "snapshot-restored",
        ("withdraw", "deposit", "cancel"),
        "The undo sets the balance to what it was before: what came in meanwhile is lost.",
        "the check objects once the withdrawal has been undone after the salary came",
        run=TransferAfterAWait.run,
        setup=RestoresASnapshot,
    ),
    _buggy(
        "undo-of-another-type",
        ("withdraw:undo", "return_receipt"),
        "The undo takes a Receipt, and is called with the step's input, an int.",
        "the undo of withdraw cannot decode its argument",
        run=SendsAnAmountForAReceipt.run,
        setup=WantsAReceipt,
    ),
    _buggy(
        "undo-not-registered",
        ("withdraw:undo", "return_withdrawal"),
        "The worker has not registered the compensation.",
        "the undo of withdraw never ends: nobody has registered return_withdrawal",
        setup=ForgotToRegister,
    ),
    _buggy(
        "late-effect",
        ("withdraw",),
        "The undo leaves no trace: a withdrawal that comes after it takes the money for good.",
        "withdraw took effect after its undo and stands",
        setup=ForgetsWhatItReversed,
    ),
    _buggy(
        "undo-reads-removed-state",
        ("withdraw:undo", "deposit"),
        "The undo of the withdrawal reads what the undo of the deposit has removed before it.",
        "the check objects once deposit has applied and both have been undone",
        setup=LooksForThePair,
    ),
    _buggy(
        "undo-gives-up",
        ("withdraw:undo", "deposit:undo"),
        "A compensation has one attempt: one transient error, and the money is gone.",
        "after a transient fault of an undo its effect stands",
        run=GivesUp.run,
    ),
    _buggy(
        "armed-after-the-step",
        ("withdraw",),
        "The compensation is pushed once the step has returned: a lost reply is never undone.",
        "withdraw took effect and was not undone",
        run=ArmsAfterwards.run,
    ),
    _buggy(
        "returned-twice",
        ("deposit", "pay_back"),
        "The body pays back by hand, and the saga returns the withdrawal as well.",
        "the check objects once deposit has failed",
        run=ReturnsByHandToo.run,
    ),
    _buggy(
        "unknown-not-undone",
        ("withdraw",),
        "compensation_from returns None if there is no result, that is, if the outcome is unknown.",
        "withdraw took effect and was not undone, after fails_after('withdraw')",
        run=NeedsTheResult.run,
        setup=WantsAReceipt,
    ),
    _buggy(
        "unknown-crashes",
        ("withdraw",),
        "compensation_from calls a method of the result, which is None if the outcome is unknown.",
        "the workflow task fails again and again: compensation_from of withdraw raises AttributeError",
        run=Parsed.run,
        setup=WantsAReceipt,
    ),
]

"""What the READMEs of the examples promise: each end that one names has a test on a real server, each undo is drawn."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import examples

HERE = Path(examples.__file__).parent
SERVER = Path(__file__).parents[1] / "server"
EXAMPLES = sorted(path.parent.name for path in HERE.glob("*/README.md"))

CANCEL = "It is cancelled before the pivot"
FAULT = "A fault that outlasts its retries"
OUTLASTS = "A fault outlasts its retries"

# The first cell of each row in the table of ends, and the tests that show it: `test_` is left out.
ENDS = {
    "account": {
        "All steps succeed": "an_order_is_made_once_also_across_runs",
        "The card is declined": "an_order_is_made_once_also_across_runs",
        "The same id again, also in a later run": "an_order_is_made_once_also_across_runs",
        "The amount is more than the balance, zero or negative, or the account is closed": (
            "two_orders_at_once_cannot_spend_the_same_money"
        ),
        OUTLASTS: "a_fault_undoes_the_order_and_the_account_goes_on",
        "An undo fails for good": "an_undo_that_fails_for_good_fails_its_order_alone",
        "The account is cancelled": "a_cancel_undoes_the_orders_under_way",
    },
    "agent_tools": {
        "The person approves": "a_trip_is_booked_by_an_agent_and_approved",
        "The person rejects, or does not answer for a day": (
            "what_was_booked_is_canceled_newest_first no_answer_for_a_day_is_a_no"
        ),
        "A hotel is full": "a_trip_is_booked_by_an_agent_and_approved",
        "A tool or the model fails for good": (
            "a_tool_that_fails_for_good_ends_the_trip a_model_that_fails_for_good_ends_the_trip"
        ),
        CANCEL: "what_was_booked_is_canceled_newest_first",
        "There is a bug in a tool": "a_bug_in_a_tool_waits_for_fixed_code",
    },
    "approval": {
        "Both approve": "two_people_approve",
        "The budget does not cover it, the manager or finance says no": "each_of_them_may_say_no",
        "One of them does not answer for 3 days": ("a_manager_has_three_days finance_is_reminded_and_then_given_up"),
        CANCEL: "a_cancel_does_not_wait_for_the_answer",
        FAULT: "a_fault_for_good_fails_once_all_is_undone",
    },
    "batch": {
        "All are paid": "if_all_are_paid_nobody_is_told all_are_paid_or_none",
        "An account is closed": "what_fails_is_a_line_in_the_summary all_are_paid_or_none",
        OUTLASTS: "what_fails_is_a_line_in_the_summary a_fault_takes_the_whole_batch_back",
        "It is cancelled": "a_cancel_undoes_the_transfers_under_way",
    },
    "cart": {
        "It is checked out": "a_cart_goes_on_across_runs_until_it_is_paid",
        "The card is declined": "a_refused_update_leaves_the_cart_as_it_was",
        "The product is out of stock": "a_refused_update_leaves_the_cart_as_it_was",
        "A line is added twice, or taken out twice": "a_refused_update_leaves_the_cart_as_it_was",
        "No check-out within 24 hours": "a_cart_expires_a_day_after_its_first_run_began",
        "It is cancelled before the check-out": (
            "a_refused_update_leaves_the_cart_as_it_was a_full_cart_takes_no_more_lines"
        ),
    },
    "export": {
        "All pages are written": "another_worker_goes_on_where_a_killed_one_stopped",
        "The worker dies": "another_worker_goes_on_where_a_killed_one_stopped",
        "It is cancelled while it writes": "a_cancel_half_way_removes_the_half",
        "A page fails until the retries end": "a_failure_half_way_removes_the_half",
        "It is cancelled after the last page": "a_cancel_after_the_last_page_publishes",
    },
    "money_transfer": {
        "All steps succeed": "a_transfer_that_succeeds an_approved_transfer_goes_on",
        "The balance is too low, or an account is frozen": (
            "insufficient_funds_are_an_answer_and_no_stack_trace a_deposit_that_is_refused_returns_the_withdrawal"
        ),
        "The review is a rejection, or does not come within 24 hours": (
            "a_rejected_transfer_unwinds no_review_in_24_hours_counts_as_a_reject"
        ),
        "It is cancelled": ("a_cancel_in_the_wait_for_the_review_unwinds a_cancel_during_the_deposit_undoes_it_first"),
        "Unknown account, the same account twice, an amount of zero or less, another currency": (
            "a_bad_order_fails_before_anything_moves"
        ),
        FAULT: "a_fault_for_good_fails_once_all_is_undone",
    },
    "onboarding": {
        "The user verifies the address and signs in": "a_user_who_comes_is_onboarded",
        "The address has an account already, or the team exists already": (
            "a_taken_address_and_a_taken_team_are_refused"
        ),
        "No sign-in within 7 days, whether or not the address is verified": "no_sign_in_within_a_week",
        "`cancel_signup` before the first sign-in": "a_cancel_takes_away_what_was_created",
        "`cancel_signup` after the first sign-in": "a_user_who_comes_is_onboarded",
        "The workflow is cancelled before the first sign-in": "a_cancel_takes_away_what_was_created",
        FAULT: "a_fault_for_good_fails_once_all_is_undone",
    },
    "order": {
        "`shipment_ready` arrives": "happy shipment_ready_before_anything",
        "The card is declined": "a_declined_card_is_an_answer",
        "A product is out of stock": "out_of_stock_while_the_charge_is_in_flight",
        "The reviewer rejects it, or does not answer within 24 hours": "a_review_ends_with_a_no nobody_reviews_it",
        "No carrier takes the order": "no_carrier_takes_it",
        "`cancel_order` arrives first": (
            "cancel_order_while_waiting cancel_order_before_anything cancel_order_between_two_stages"
        ),
        "No signal within 7 days": "no_shipment_in_time",
        "The workflow is cancelled before the parcel has left": "the_workflow_is_cancelled_while_waiting",
        "The workflow is cancelled after the parcel has left": "what_has_left_is_not_taken_back",
        "Bad input": "bad_input_fails_before_anything_moves",
        f"{FAULT}; a carrier's counts as a no": (
            "a_fault_for_good_fails_once_all_is_undone a_fault_of_a_carrier_counts_as_a_no"
        ),
    },
    "payment": {
        "All parts are captured": (
            "all_parts_are_captured_and_given_back_in_parts nothing_is_refunded_after_thirty_days"
        ),
        "The card is declined": "a_declined_card_is_an_answer",
        "A capture fails for good": "a_person_decides_what_nobody_knows a_person_is_reminded_every_four_hours",
        "The person says retry": "a_person_decides_what_nobody_knows",
        "The person says give_up": "a_person_decides_what_nobody_knows",
        f"{CANCEL}, also while a capture waits": "a_cancel_while_a_capture_waits_takes_everything_back",
        "It is cancelled after the pivot": "a_cancel_after_the_pivot_settles_and_refunds_nothing",
    },
    "standing_order": {
        "All steps succeed": "a_schedule_pays_a_period_once a_loop_pays_day_after_day",
        "The period was paid before": "a_schedule_pays_a_period_once a_loop_that_begins_anew_pays_nothing_again",
        "The bank says no": (
            "a_payment_that_the_bank_declines_is_undone_and_says_why a_loop_that_begins_anew_pays_nothing_again"
        ),
        OUTLASTS: "how_a_payment_ends_badly",
        "An undo fails for good": "how_a_payment_ends_badly",
        "It is cancelled": "how_a_payment_ends_badly",
    },
    "versioning": {},  # it has tables of what replays on what
}


def readme(name: str) -> str:
    return (HERE / name / "README.md").read_text(encoding="utf-8")


def test_the_index_has_every_example() -> None:
    index = (HERE / "README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\]\((\w+)/README.md\)", index)) == EXAMPLES


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_end_that_a_readme_names_has_a_test_on_a_real_server(name: str) -> None:
    """Whoever adds an end adds its test."""
    table = re.search(r"^\| What happens .*\n\| ---.*\n((?:\|.*\n?)*)", readme(name), re.MULTILINE)
    rows = re.findall(r"^\| (.*?) \|", table[1] if table else "", re.MULTILINE)
    assert rows == list(ENDS[name])
    tests = (SERVER / f"test_{name}.py").read_text(encoding="utf-8")
    named = {test for tests_of_row in ENDS[name].values() for test in tests_of_row.split()}
    assert {test for test in named if f"def test_{test}(" not in tests} == set()


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_readme_draws_its_saga(name: str) -> None:
    """One diagram, with each undo and the pivot; and what `explore` found."""
    text = readme(name)
    (drawn,) = re.findall(r"```mermaid\n(.*?)```", text, re.DOTALL)
    sources = "".join(path.read_text(encoding="utf-8") for path in (HERE / name).glob("*.py"))
    undos = set(re.findall(r"\bcompensation=(?:\w+\.)?(\w+)", sources))
    assert {undo for undo in undos if not re.search(rf"\b{undo}\b", drawn)} == set()
    assert ("pivot" in drawn) == (".pivot()" in sources)
    assert "pivot" in drawn or "The saga has no pivot" in text
    assert "`explore`" in text

"""Programs that once broke a promise, by what was wrong. Right is: no objection.

`python -m tests.fuzz --known` runs them, `--known "E4"` those with that in their name, with the story of each.
"""

from __future__ import annotations

from .program import (
    HAS_TIMEOUT,
    Body,
    Op,
    Program,
    adopt,
    all_ops,
    attempt,
    callback,
    cancel_task,
    child,
    compensate,
    event,
    fail,
    gather,
    go_on,
    group,
    join,
    late,
    pivot,
    plain,
    program,
    saga,
    savepoint,
    shield,
    sleep,
    spawn,
    step,
    timeout,
    undo,
    wait,
)


def _pays_by_another_card() -> Op:
    first = timeout(3, [step("card1", takes=5)])
    return attempt([first], handler=[step("card2")])


def _deadline_meets_cancel(body: Body) -> Program:
    """The workflow's cancel comes, then the deadline; the body has swallowed neither."""
    return program(
        [attempt([saga("order", body, deadline=2)], catches="any", last=[sleep()])], cancel_at=1, ties="together"
    )


PROGRAMS: dict[str, Program] = {
    "A3: savepoints in a TaskGroup are cancelled in the order of a set": program(
        [saga("order", [group([[savepoint(f"way {x}", [step(x), wait("never")])] for x in "abcdefgh"])])],
        cancel_at=3,
        hashes=7,
    ),
    "A3: sagas in a TaskGroup": program(
        [group([[saga(f"order {x}", [step(x), wait("never")])] for x in "abcdefgh"])], cancel_at=3, hashes=7
    ),
    "A3: savepoints in a TaskGroup, one of which fails": program(
        [
            saga(
                "order",
                [
                    group(
                        [
                            *([savepoint(f"way {x}", [step(x), wait("never")])] for x in "abcdefgh"),
                            [step("long", takes=3, fate="error")],
                        ]
                    )
                ],
            )
        ],
        hashes=7,
    ),
    "A4: the failed undo of a savepoint whose error is caught": program(
        [saga("order", [attempt([savepoint("way", [step("seat", undo="error"), fail()])])])]
    ),
    "A4: the failed undo of a savepoint in a task that nobody awaits": program(
        [
            saga(
                "order",
                [
                    spawn("task", [savepoint("way", [step("seat", undo="error"), sleep(9)])]),
                    sleep(3),
                    cancel_task("task"),
                    sleep(5),
                ],
            )
        ]
    ),
    "A5: a swallowed cancel, then the deadline": program(
        [saga("order", [step("a"), attempt([sleep(3)], catches="cancel"), sleep(100)], deadline=6)], cancel_at=2
    ),
    "A5: a swallowed cancel, then a timeout that is kept during an unwind": program(
        [
            attempt(
                [
                    timeout(
                        8,
                        [
                            saga(
                                "order",
                                [step("a", undo_takes=5), attempt([sleep(3)], catches="cancel"), sleep(4), fail()],
                            )
                        ],
                    )
                ]
            ),
            sleep(5),
        ],
        cancel_at=2,
    ),
    "B9: an eviction meets the finally of a sibling": program(
        [
            saga(
                "order",
                [gather([[attempt([sleep(50)], catches="", last=[step("late")])], [step("a", undo_takes=5), fail()]])],
            )
        ]
    ),
    "E1: the state of a child that comes with a cancel": program(
        [saga("order", [attempt([timeout(2, [child("child", takes=3, detaches=1)])], catches="any")])]
    ),
    "E2: past the pivot, a timeout in a task is taken for the workflow": program(
        [gather([[saga("branch", [pivot(), spawn("pay", [_pays_by_another_card()]), sleep(10)])]])], cancel_at=1
    ),
    "E2: past the pivot, the main method has swallowed the cancel": program(
        [
            spawn("branch", [saga("branch", [pivot(), _pays_by_another_card(), sleep(5)])]),
            attempt([wait("never")], catches="cancel"),
            join("branch"),
        ],
        cancel_at=1,
    ),
    "E2: past the pivot of a saga in a callback": program(
        [saga("order", [step("a"), callback("undoing", [saga("undo", [pivot(), _pays_by_another_card()])]), fail()])],
        cancel_at=3,
    ),
    "E3: a signal handler that ends cancelled closes over an incomplete saga": program(
        [
            spawn("task", [wait("never")]),
            attempt(
                [saga("order", [step("a", undo="error"), sleep(5)])], catches="", last=[cancel_task("task"), sleep(1)]
            ),
        ],
        events=[event(2, "signal", [join("task")])],
        cancel_at=3,
    ),
    "E4: a deadline swallows the timeout that comes with it": program(
        [attempt([timeout(5, [attempt([saga("order", [step("a"), sleep(100)], deadline=5)]), sleep(3600)])])],
        ties="together",
    ),
    "E4: two deadlines pass together": program(
        [saga("outer", [attempt([saga("inner", [step("a"), sleep(100)], deadline=5)]), sleep(3600)], deadline=5)],
        ties="together",
    ),
    "E4: a timeout expires while the saga inside unwinds": program(
        [attempt([timeout(3, [attempt([saga("order", [step("a", undo_takes=5), fail()])]), sleep(3600)])])]
    ),
    "E5: a step is handed to a task just before the scope ends": program(
        [saga("order", [spawn("task", [step("a")])]), sleep(3)]
    ),
    "E6: an eviction meets a body that swallows it while a savepoint is in flight": program(
        [
            saga(
                "order",
                [
                    attempt(
                        [
                            gather(
                                [
                                    [savepoint("a", [step("a", takes=5)])],
                                    [savepoint("b", [attempt([sleep(9)], catches="cancel")])],
                                ],
                                settles=True,
                            )
                        ],
                        catches="cancel",
                    )
                ],
            )
        ]
    ),
    "E7: the cancel that is held past the pivot is lost in continue-as-new": program(
        [saga("order", [pivot(), step("a", takes=5), go_on([step("b")])])], cancel_at=3
    ),
    "E8: one state is joined and adopted": program(
        [saga("order", [child("child", detaches=1), attempt([adopt("child", [fail()])]), fail()])]
    ),
    "E9: a step is cancelled in a later activation of its workflow task": program(
        [
            saga(
                "order",
                [
                    attempt([timeout(2, [plain("p", takes=9)])], catches="any"),
                    spawn("a", [step("a", takes=5)]),
                    spawn("b", [attempt([plain("q", takes=9)], catches="any", handler=[cancel_task("a")])]),
                    spawn("c", [cancel_task("b")]),
                    sleep(1),
                    fail(),
                ],
            )
        ]
    ),
    "E10: a cancelled plain activity in a savepoint whose undo fails": program(
        [
            saga(
                "order",
                [step("a"), attempt([savepoint("way", [step("b", undo="error"), plain("p", takes=9)])]), sleep(5)],
            )
        ],
        cancel_at=3,
    ),
    "E11: a cancel comes while a good end undoes": program(
        [
            saga(
                "order",
                [
                    attempt([step("a", fate="error", undo_takes=3)]),
                    step("b"),
                    attempt([step("c", fate="error", undo_takes=3)]),
                ],
            )
        ],
        cancel_at=4,
    ),
    "E12: pivot() in a finally that the deadline's cancel passes": program(
        [saga("order", [attempt([sleep(100)], catches="", last=[pivot()])], deadline=3)]
    ),
    # Found by this fuzzer:
    "E11: an undo fails while a good end undoes": program(
        [
            saga(
                "order",
                [attempt([step("a", fate="error")]), step("b"), attempt([step("c", fate="error", undo="error")])],
            )
        ]
    ),
    "E4: a workflow's cancel comes while a step that the deadline has cancelled still runs": program(
        [
            attempt(
                [saga("order", [step("a", takes=8), step("b", takes=8, obeys=None)], deadline=9)],
                catches="",
                last=[sleep()],
            )
        ],
        cancel_at=11,
    ),
    "E4: a TaskGroup keeps the workflow's cancel and the deadline's, and raises a timeout's": program(
        [
            attempt(
                [
                    saga(
                        "order",
                        [timeout(2, [group([[saga("part", [step("a", takes=5, obeys=3, undo_takes=4)])]])])],
                        deadline=7,
                    )
                ],
                catches="any",
            ),
            sleep(),
        ],
        cancel_at=6,
    ),
    "A5: a cancel that comes with the start is swallowed, and then the deadline passes": program(
        [saga("order", [attempt([step("a", takes=4)], catches="any", last=[step("b", takes=8)])], deadline=8)],
        cancel_at=0,
    ),
    "E4: a workflow's cancel comes after a deadline that the body has swallowed": program(
        [attempt([saga("order", [attempt([wait("f")], catches="any", handler=[wait("g")])], deadline=5)]), sleep()],
        cancel_at=8,
    ),
    "A5: a deadline in an update handler, whom the workflow's cancel never reaches": program(
        [attempt([wait("f")], catches="any"), wait("g")],
        events=[event(8, "update", [saga("order", [step("a", takes=5)], deadline=5)])],
        cancel_at=10,
        ties="together",
    ),
    "E4: a timeout expires while compensate() runs, whose undo fails": program(
        [
            saga(
                "order",
                [
                    step("a", undo="error", undo_takes=4),
                    attempt([timeout(2, [attempt([compensate()], catches="any"), sleep(9)])]),
                ],
            )
        ]
    ),
    "E5: a child is handed to a task just before the scope ends": program(
        [saga("order", [spawn("task", [child("child")])]), sleep(3)]
    ),
    "E10: a swallowed cancel comes out of a savepoint whose good end failed": program(
        [
            saga(
                "order",
                [savepoint("way", [attempt([step("a", takes=4), step("b", takes=3, undo="error")], catches="any")])],
            )
        ],
        cancel_at=6,
        busy=[[6, 10]],
    ),
    "E2: without the plugin, a step past the pivot of the main method gets the workflow's cancel": program(
        [saga("order", [pivot(), step("a", takes=5)])], cancel_at=3, plugin=False
    ),
    "E5: a late call on a savepoint that its saga's unwind has taken over": program(
        [
            attempt(
                [
                    saga(
                        "order",
                        [spawn("task", [attempt([savepoint("way", [sleep(5)])], catches="any")]), step("a"), fail()],
                    )
                ]
            ),
            sleep(8),
            spawn("other", [late("late", "way")]),
            sleep(3),
        ]
    ),
    "E4: the deadline passes while a step waits that the workflow's cancel has interrupted": _deadline_meets_cancel(
        [step("a", takes=3, obeys=3)]
    ),
    "E4: the deadline passes while a step in a gather waits": _deadline_meets_cancel(
        [gather([[step("a", takes=3, obeys=3)]])]
    ),
    "E4: the deadline passes while a child waits": _deadline_meets_cancel([child("a", takes=3)]),
    "E4: the deadline passes while a savepoint unwinds, which keeps the workflow's cancel": _deadline_meets_cancel(
        [savepoint("way", [step("a", takes=0, undo_takes=4), fail()])]
    ),
    "E4: the deadline passes while undo() keeps the workflow's cancel": _deadline_meets_cancel(
        [step("a", takes=0, undo_takes=4), undo("a")]
    ),
    "E4: the deadline passes while a saga inside waits": _deadline_meets_cancel(
        [saga("inner", [step("a", takes=3, obeys=3)])]
    ),
    "E4: the deadline passes in a finally that the workflow's cancel passes": _deadline_meets_cancel(
        [attempt([sleep(9)], catches="", last=[sleep(3)])]
    ),
    "E4: the deadline passes in a finally that passes the workflow's cancel, which a plain activity has met": (
        _deadline_meets_cancel([attempt([plain("p", takes=9)], catches="", last=[step("a", takes=3)])])
    ),
    "F1: a second pivot in the activation in which the workflow's cancel comes": program(
        [saga("order", [step("a"), pivot(), step("b"), pivot(), step("c")])], cancel_at=2, ties="reversed"
    ),
    "F2: the cancel of a savepoint hides that a saga inside is incomplete": program(
        [saga("order", [savepoint("way", [saga("inner", [step("a", undo="error", undo_takes=3), fail()])])])],
        cancel_at=2,
    ),
    "G1: the workflow's cancel comes while a savepoint undoes a swallowed step, and an undo has failed inside": program(
        [
            saga(
                "order",
                [
                    savepoint(
                        "way",
                        [
                            attempt([step("a", fate="error", undo_takes=4)]),
                            attempt([savepoint("inner", [step("b", fate="error", undo="error")])], catches="any"),
                        ],
                    )
                ],
            )
        ],
        cancel_at=5,
    ),
    "G2: the deadline passes while a savepoint unwinds, which a plain activity began that met the workflow's cancel": (
        program(
            [
                attempt(
                    [saga("order", [savepoint("way", [step("a", undo_takes=4), plain("p", takes=8)])], deadline=6)]
                ),
                sleep(),
            ],
            cancel_at=4,
        )
    ),
    "G4: the workflow's cancel waits for a saga that unwinds past its pivot, and a callback passes a pivot": (
        program(
            [
                saga(
                    "order",
                    [
                        pivot(),
                        callback("x", [saga("inner", [step("b"), pivot(), step("c")])]),
                        step("a", undo_takes=4),
                        fail(),
                    ],
                )
            ],
            cancel_at=3,
        )
    ),
    "G5: a task cancels itself, and its saga fails before the next await": program(
        [
            spawn("task", [attempt([cancel_task("task"), saga("order", [step("a"), fail()])]), sleep()]),
            spawn("other", [attempt([cancel_task("other"), saga("empty", [fail()])]), sleep()]),
            wait("g"),
        ]
    ),
    "oracle: a task that is shielded from the workflow's cancel passes a pivot": program(
        [gather([[sleep(4), shield([sleep(), saga("order", [sleep(3), pivot()])])]])], cancel_at=11, busy=[[8, 11]]
    ),
    "oracle: the deadline is due in the second of the pivot": program(
        [attempt([saga("order", [step("a", takes=4), pivot(), wait("f")], deadline=4)], catches="any", last=[sleep()])],
        cancel_at=11,
    ),
    "oracle: a saga that has compensated itself holds no cancel": program(
        [saga("order", [pivot(), compensate(), sleep(3), attempt([sleep(4)], catches="cancel")]), sleep()], cancel_at=5
    ),
    "oracle: a callback is under way before its activity begins": program(
        [saga("order", [callback("x", [saga("inner", [step("a")])]), gather([[plain("p"), callback("y")], [fail()]])])]
    ),
    "oracle: a finally swallows the deadline's cancel, and the workflow's passes through it": program(
        [saga("order", [attempt([step("a", takes=5)], last=[attempt([wait("g")], catches="any")])], deadline=9)],
        cancel_at=4,
        plugin=False,
    ),
    "oracle: a finally swallows the workflow's cancel, and the deadline's passes through it": program(
        [
            saga(
                "order",
                [attempt([step("a", takes=8)], last=[attempt([step("b", takes=8)], catches="cancel")])],
                deadline=7,
            )
        ],
        cancel_at=11,
        plugin=False,
    ),
}
"""By what was wrong."""

if HAS_TIMEOUT:
    PROGRAMS["oracle: a handler's saga past its pivot holds no cancel"] = program(
        [saga("order", [timeout(5, [attempt([step("a", takes=5)], catches="any"), sleep(5), step("b")])])],
        events=[event(3, "signal", [saga("handlers", [pivot(), sleep(5)])])],
        cancel_at=5,
        ties="together",
    )
    PROGRAMS["oracle: a timeout counts on a cancel that was swallowed before"] = program(
        [
            saga(
                "order",
                [
                    attempt([step("a")], catches="any"),
                    timeout(4, [attempt([sleep(5)], catches="any", handler=[sleep()])]),
                ],
                deadline=3,
            )
        ],
        cancel_at=0,
    )

if not HAS_TIMEOUT:
    PROGRAMS = {
        what: each for what, each in PROGRAMS.items() if not {"timeout", "group"} & {op["op"] for op in all_ops(each)}
    }

MISUSE = {"E8: one state is joined and adopted"}
"""Programs that are misuse: the workflow task may fail, with a word."""

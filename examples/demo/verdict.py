"""What a ledger says, what it should say, and whether a story went as the demo claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from examples.order.models import format_amount


@dataclass(frozen=True)
class Row:
    """A line of a ledger, in cents.

    Attributes:
        name: What it is.
        amount: What the ledger says.
        due: What it would say, had everything gone right.
        owned: Whether the customers own it; what is on its way between them nobody owns.
    """

    name: str
    amount: int
    due: int
    owned: bool = True


@dataclass(frozen=True)
class Books:
    """One ledger after a story.

    Attributes:
        rows: Its lines.
        caption: What their total is called.
        ending: How the workflow ended.
    """

    rows: Sequence[Row]
    caption: str
    ending: str

    @property
    def total(self) -> int:
        """What the customers own."""
        return sum(row.amount for row in self.rows if row.owned)

    @property
    def due(self) -> int:
        """What they should own."""
        return sum(row.due for row in self.rows if row.owned)

    @property
    def right(self) -> bool:
        """Whether each line is as it should be. The total alone would miss what nobody did."""
        return all(row.amount == row.due for row in self.rows)

    @property
    def verdict(self) -> str:
        """All of it in a line."""
        difference = self.total - self.due
        if difference:
            word = f"{format_amount(abs(difference))} {'lost' if difference < 0 else 'too much'}"
        else:
            word = "intact" if self.right else "in the wrong place"
        return f"{word} - {format_amount(self.total)} of {format_amount(self.due)}"


class Verdicts:
    """What the stories came to."""

    def __init__(self) -> None:
        """Has heard none."""
        self.objections: list[str] = []
        self._told = self._ours = self._textbooks = 0

    @property
    def exit_code(self) -> int:
        """0 if every story went as the demo says."""
        return 1 if self.objections else 0

    @property
    def score(self) -> str:
        """How many ledgers were right."""
        return f"Right ledgers: ours {self._ours} of {self._told}, the textbook's {self._textbooks} of {self._told}."

    def pass_on(self, number: int, saga: Books, textbook: Books, *, hazard: bool) -> bool:
        """Judges a story.

        Args:
            number: The story's.
            saga: The saga's books. They must be right, whatever happens.
            textbook: The textbook's. Under a hazard their total must be wrong, else they must be
                right.
            hazard: Whether the story has one of the four hazards.

        Returns:
            Whether it went as the demo says; if not, there is an objection more.
        """
        self._told += 1
        self._ours += saga.right
        self._textbooks += textbook.right
        if not saga.right:
            self.objections.append(f"Story {number}: ours is wrong, {saga.verdict}")
        elif hazard and textbook.total == textbook.due:
            self.objections.append(f"Story {number}: the textbook should be wrong, and is not")
        elif not hazard and not textbook.right:
            self.objections.append(f"Story {number}: the textbook should be right, and is not")
        else:
            return True
        return False

    def broken(self, number: int, error: Exception) -> None:
        """Takes note of a story that did not come to its end."""
        self._told += 1
        self.objections.append(f"Story {number} broke off: {str(error) or type(error).__name__}")

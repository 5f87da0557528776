"""A system of someone else's that honors keys: what the worlds of the corpus have in common."""

from temporal_saga import Rejected, current_step


def step_key() -> str:
    """Return the key of the step that the running activity does or undoes."""
    step = current_step()
    return step.forward_key or step.key


class Ledger:
    """An entry is made once for each key, and not at all once it has been reversed.

    Attributes:
        totals: The sum of the entries of each account.
        applied: The entries that were made, by their keys.
        reversed: The keys that were reversed, whether or not their entry had been made.
    """

    def __init__(self, **totals: int) -> None:
        self.totals = totals
        self.applied: dict[str, tuple[str, int]] = {}
        self.reversed: set[str] = set()

    def enter(self, account: str, amount: int, key: str | None = None) -> None:
        """Make the entry of the running step."""
        key = key or step_key()
        if key in self.reversed:
            raise Rejected("this has been reversed, it came too late")
        if key not in self.applied:
            self.applied[key] = (account, amount)
            self.add(account, amount)

    def reverse(self, key: str | None = None) -> None:
        """Reverse the entry of the step that the running activity undoes."""
        key = key or step_key()
        if key in self.applied and key not in self.reversed:
            account, amount = self.applied[key]
            self.add(account, -amount)
        self.reversed.add(key)

    def add(self, account: str, amount: int) -> None:
        """Change a total, whatever the key."""
        self.totals[account] = self.totals.get(account, 0) + amount

    def __getitem__(self, account: str) -> int:
        return self.totals.get(account, 0)

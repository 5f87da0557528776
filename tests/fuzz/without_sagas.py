"""Later."""
def main(minutes: float, start: int | None) -> int: return 0

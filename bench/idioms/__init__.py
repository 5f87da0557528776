"""The ways in which people write sagas by hand, and what `explore` finds in each: `python -m bench.idioms`."""

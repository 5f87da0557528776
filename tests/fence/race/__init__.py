"""The fence's proof: a step and its undo in two processes at once, and one of them killed between any two statements.

`referee` sends a step (late, as after its own timeout) and its undo to two processes of `player`, steers how their
transactions meet, and looks after each round at what happened to the money. `fences` has what is put to the test: the
library's fence, none at all, and some that are broken, which the referee must notice.
"""

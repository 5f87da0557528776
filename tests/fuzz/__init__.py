"""A fuzzer of interleavings: random workflow bodies, random disturbances, and an oracle outside the library.

    python -m tests.fuzz --minutes 5          # random programs; prints the seed, the shrunk program, the objection
    python -m tests.fuzz --seed 1234          # one seed again
    python -m tests.fuzz --known              # the programs in `known.py`, by name

* `program.py`: a program is plain data, a tree of operations with the fates of its activities; how to write, print,
  generate and shrink one.
* `interpreter.py`: the one workflow that runs any program, and notes what a user's code can see.
* `harness.py`: plays the server and a slow worker; keeps the ledger of what took effect.
* `oracle.py`: says what must have come of it. It reads the ledger, the commands and the notes, never the library.
* `known.py`: programs that once broke a promise.
* `without_sagas.py`: programs without a saga do the same with and without `SagaPlugin`.
"""

"""Sagas under fire: a real server, worker processes and databases, all of which are killed again and again.

python -m tests.storm --transfers 1000 --seed 7     transfers and orders under a seeded plan of faults
python -m tests.storm --by-hand                     the same over the hand-written idiom, which loses some
python -m tests.storm gaps                          a kill between any two events of the life of what is parked
python -m tests.storm sees                          what is broken must be caught: copies of the library, a bank, a loop
"""

"""Histories of each release, which every later release must replay.

`python -m tests.histories` (`make histories`) runs the workflows of `workflows.py` on a real server
and writes what comes of it to the directory of the current release. Once released, a directory is
frozen: a change to the order of commands goes behind `workflow.patched`.
"""

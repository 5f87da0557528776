"""A Temporal dev server for the tests and the examples, wherever it can be had.

``async with dev_server() as env:`` gives a ``temporalio.testing.WorkflowEnvironment``.
``python -m examples.dev_server --help`` shows the same on the command line.
"""

from ._cli import DevServerError, find_cli
from ._server import dev_server, free_port

__all__ = ["DevServerError", "dev_server", "find_cli", "free_port"]

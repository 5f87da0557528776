"""Workflows that the sandbox imports anew for each run; each module brings only what it needs."""

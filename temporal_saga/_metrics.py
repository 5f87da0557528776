"""Metrics, which the worker exports. The SDK records none while it replays."""

from __future__ import annotations

from temporalio import workflow


def count(name: str, text: str, **labels: str) -> None:
    """Add one to a counter."""
    workflow.metric_meter().create_counter(f"temporal_saga_{name}", text).add(1, labels)


def record_seconds(name: str, text: str, seconds: float, **labels: str) -> None:
    """Record a duration in a histogram."""
    workflow.metric_meter().create_histogram_float(f"temporal_saga_{name}", text, "s").record(seconds, labels)

"""Examples that run on a real Temporal server."""

"""Small workflows that run in the simulator and on the real server, where both must tell the same."""

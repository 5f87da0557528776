"""The order of steps changes while runs are open."""

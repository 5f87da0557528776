"""Makes the screenshots of the docs anew, light and dark: python -m tools.screenshots. See `__main__.py`."""

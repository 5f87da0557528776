"""What the library costs: `python -m bench`."""

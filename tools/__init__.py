"""What the Makefile and the CI call."""

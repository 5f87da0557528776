"""What an error says of a step, and of the saga around it."""

from __future__ import annotations

"""An account whose every update is a saga of its own."""

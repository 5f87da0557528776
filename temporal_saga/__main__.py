"""`python -m temporal_saga` is the command `temporal-saga`."""

from .cli import main

if __name__ == "__main__":
    main()

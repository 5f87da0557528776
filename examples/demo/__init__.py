"""Seven stories on a real server, each told twice: with a saga, and as the tutorials do it."""

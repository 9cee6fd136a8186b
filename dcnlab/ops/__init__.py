"""The public operators: each checks its arguments once, chooses the backend and calls it."""

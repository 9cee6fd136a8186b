"""The library's own exceptions; everything else is a plain ValueError or TypeError."""


class BackendUnavailable(RuntimeError):
    """The backend asked for cannot run here. The message says what is missing and the line that brings it."""


class UnsafeCheckpoint(ValueError):
    """A checkpoint file that asks for more than arrays: code, or more memory than its size can explain."""

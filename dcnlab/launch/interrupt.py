"""ctrl-C while a kernel runs: Python acts on a signal only between its own instructions, and a kernel may never end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator

PATIENCE = 1.0  # seconds that Python gets to act on the signal by itself


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Let ctrl-C end the process inside the `with` block, even where a kernel hangs (exit status 130).

    As usual a KeyboardInterrupt is raised where Python can raise it. For commands: a process that others share, such
    as a notebook's, is not to be ended this way. Does nothing outside of the main thread, or where ctrl-C is ignored.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    noticed = threading.Event()

    def notice(number: int, frame: object) -> None:
        noticed.set()
        raise KeyboardInterrupt

    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        watcher = threading.Thread(target=_watch, args=(reader, noticed), daemon=True)
        watcher.start()
        wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, notice)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.set_wakeup_fd(wakeup)
            writer.send(b"\0")  # no signal has this number: the watcher may go
            watcher.join()


def _watch(reader: socket.socket, noticed: threading.Event) -> None:
    """Read the numbers of signals as they arrive."""
    while (number := reader.recv(1)[0]) != 0:
        if number != signal.SIGINT:
            continue
        if not noticed.wait(PATIENCE):
            sys.stdout.flush()
            os.write(2, b"interrupted while a kernel was running\n")
            os._exit(130)
        noticed.clear()

"""Train once in peace, then again and again, killed at the 1st, 2nd, ... call that touches the disk, and resumed.

`python crash_driver.py FOLDER`, which holds bars.npz, with one thread: it forks. Prints the calls as JSON.
"""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

from dcnlab.train import program
from dcnlab.train.program import resume, train
from dcnlab.train.settings import Settings

CALLS = ("fsync", "replace", "unlink")


def kill_at(number):
    """Kill this process at the call of this number, counted over all CALLS; say which it was."""
    count = 0

    def wrapped(name, call):
        def counting(*arguments, **keywords):
            nonlocal count
            if count == number:
                os.write(3, name.encode())
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return call(*arguments, **keywords)

        return counting

    for name in CALLS:
        setattr(os, name, wrapped(name, getattr(os, name)))


def in_child(action, *arguments):
    """Run an action in a fork; return its status and what it wrote to descriptor 3."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.dup2(write, 3)
            status = action(*arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    return os.waitpid(child, 0)[1], said


def killed_run(settings, folder, number):
    kill_at(number)
    return train(settings, folder)


def main(folder):
    settings = Settings(
        data=str(folder / "bars.npz"), test=4, epochs=1, batch=8, save_every=1, backend="numpy", drop_path=0.3
    )
    # The picture is drawn from the log, no run goes on from it, and it would take most of the time.
    program.draw_curves = lambda rows, path: path.write_bytes(b"")
    status, _ = in_child(train, settings, folder / "unbroken")
    assert status == 0, "the unbroken run failed"
    killed = []
    while True:
        target = folder / f"killed-{len(killed)}"
        status, call = in_child(killed_run, settings, target, len(killed))
        if status == 0:
            break
        assert status == signal.SIGKILL, f"killed at call {len(killed)}: ended by itself with {status}"
        again = (resume, target) if (target / "settings.json").exists() else (train, settings, target)
        status, _ = in_child(*again)
        assert status == 0, f"killed at call {len(killed)}, {call}: did not go on"
        killed.append(call)
    sys.stdout.write("\n" + json.dumps(killed) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""`dcnlab convert IN OUT`: a checkpoint in another format."""

from __future__ import annotations

import os
import time

from dcnlab.checkpoints.bounds import dtype_summary, size_text
from dcnlab.checkpoints.load import load_checkpoint
from dcnlab.checkpoints.save import save_checkpoint, writer


def convert(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> str:
    """Read `source` as `load_checkpoint` does, write `target` as `save_checkpoint` does; return a line that says what.

    Raises
    ------
    ValueError
        If `target` is `source`, has another suffix than .safetensors or .npz, or `source` is no checkpoint.
    OSError
        If a file cannot be read or written.
    """
    started = time.perf_counter()
    writer(target)  # a wrong suffix is told before the work
    if os.path.exists(target) and os.path.samefile(source, target):
        raise ValueError(f"{target}: expected another file to write than the one to read")
    arrays = load_checkpoint(source)
    save_checkpoint(target, arrays)
    size = size_text(sum(array.nbytes for array in arrays.values()))
    dtypes = dtype_summary([str(array.dtype) for array in arrays.values()])
    return f"{target}: {len(arrays)} arrays, {size} ({dtypes}), {time.perf_counter() - started:.2f} s"

"""The learning rate over the steps of a training."""

from __future__ import annotations

import math


def cosine(step: int, steps: int, warmup: int, peak: float, final: float = 0.0) -> float:
    r"""Return the learning rate of a step: a linear warm-up, then half a cosine.

    .. math:: \eta(t) = \begin{cases} \eta_{peak}\,(t + 1) / W & t < W \\
        \eta_{final} + \frac{1}{2} (\eta_{peak} - \eta_{final}) (1 + \cos \pi \frac{t - W}{T - W}) & t \ge W
        \end{cases}

    Step 0 has a rate of peak/W, not of 0, which would learn nothing; the last step of the warm-up has the peak. The
    cosine (eq. 5 of arXiv 1608.03983, without restarts) starts there and reaches `final` at t = T, when all steps have
    been taken: no step is spent on a rate of 0.

    Parameters
    ----------
    step : int
        t, from 0; up to `steps`.
    steps : int
        T, of the whole training.
    warmup : int
        W, less than `steps`; 0 for none.
    peak, final : float
        The largest rate, and the one at the end; 0 <= final <= peak.

    Raises
    ------
    ValueError
        For anything outside these bounds.

    Examples
    --------
    >>> [round(cosine(step, 6, 2, 1.0), 3) for step in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    if not 0 <= warmup < steps:
        raise ValueError(f"warmup must be in 0..steps-1 = 0..{steps - 1}, got {warmup}")
    if not 0 <= step <= steps:
        raise ValueError(f"step must be in 0..steps = 0..{steps}, got {step}")
    if not (0 <= final <= peak and math.isfinite(peak)):
        raise ValueError(f"rates must be finite with 0 <= final <= peak, got peak {peak} and final {final}")
    if step < warmup:
        return peak * ((step + 1) / warmup)
    progress = (step - warmup) / (steps - warmup)
    return final + (peak - final) * (1 + math.cos(math.pi * progress)) / 2

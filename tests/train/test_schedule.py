"""The learning rate: its ends, its bounds, and that it does not jump."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcnlab.train.schedule import cosine


@st.composite
def schedules(draw):
    steps = draw(st.integers(1, 10**6))
    warmup = draw(st.integers(0, min(steps - 1, 10**4)))
    peak = draw(st.floats(1e-8, 10))
    return {"steps": steps, "warmup": warmup, "peak": peak, "final": peak * draw(st.floats(0, 1))}


@given(schedules())
def test_the_ends(schedule):
    steps, warmup, peak, final = schedule.values()
    assert cosine(0, **schedule) == pytest.approx(peak / max(warmup, 1), rel=1e-12)
    assert cosine(warmup, **schedule) == pytest.approx(peak, rel=1e-12)
    assert cosine(steps, **schedule) == pytest.approx(final, rel=1e-12, abs=0.0)
    if warmup:
        assert cosine(warmup - 1, **schedule) == peak


@given(schedules(), st.data())
def test_it_rises_to_the_peak_and_then_falls_to_the_end(schedule, data):
    steps, warmup, peak, final = schedule.values()
    step = data.draw(st.integers(0, steps - 1))
    now, then = cosine(step, **schedule), cosine(step + 1, **schedule)
    rounding = 4 * peak * 2**-52
    assert 0 < now <= peak + rounding
    if step < warmup:
        assert then >= now - rounding
        assert then - now <= peak / warmup + rounding
    else:
        assert final - rounding <= then <= now + rounding
        # The steepest slope of half a cosine of height h over n steps is h pi / (2 n).
        assert now - then <= (peak - final) * math.pi / 2 / (steps - warmup) + rounding


def test_the_middle_of_the_cosine_is_the_mean():
    assert cosine(60, steps=100, warmup=20, peak=0.5, final=0.1) == pytest.approx(0.3, rel=1e-12)


def test_warm_up_is_a_line_through_the_steps():
    rates = [cosine(step, 10, 4, peak=2.0) for step in range(5)]
    assert rates == [0.5, 1.0, 1.5, 2.0, 2.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": -1}, r"step must be in 0..steps = 0..10, got -1"),
        ({"step": 11}, r"got 11"),
        ({"warmup": 10}, r"warmup must be in 0..steps-1 = 0..9, got 10"),
        ({"warmup": -1}, r"got -1"),
        ({"steps": 0, "step": 0, "warmup": 0}, r"warmup must be in"),
        ({"final": 2.0}, r"0 <= final <= peak, got peak 1.0 and final 2.0"),
        ({"final": -0.1}, r"final -0.1"),
        ({"peak": math.nan}, r"peak nan"),
        ({"peak": math.inf}, r"peak inf"),
    ],
)
def test_what_is_no_schedule_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        cosine(**{"step": 3, "steps": 10, "warmup": 2, "peak": 1.0, **change})

"""The loop: it learns, it repeats bit by bit, it goes on as if nothing had happened, it stops where it diverges."""

import numpy as np
import pytest
from training import QUICK, bars

from dcnlab import InternImage, nn
from dcnlab.train.divergence import Diverged
from dcnlab.train.loop import Trainer
from dcnlab.train.settings import Settings

TINY = {"channels": 8, "depths": [1, 1, 1, 1], "groups": [1, 2, 4, 8], "mlp_ratio": 1.0, "num_classes": 2}


def trainer(model=None, **changes):
    settings = Settings(**{**QUICK, **changes})
    tiny = InternImage(**TINY, drop_path_rate=settings.drop_path, dtype=settings.dtype, rng=settings.seed)
    return Trainer(settings, bars(15), bars(8, seed=1), model=tiny if model is None else model)


def assert_same_bits(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].tobytes() == array.tobytes(), name


def without_time(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_it_learns_to_tell_bars_apart():
    settings = Settings(**{**QUICK, "epochs": 12, "batch": 16, "lr": 4e-3})
    learner = Trainer(settings, bars(48), bars(40, seed=1), model=InternImage(**TINY, rng=0))
    rows = learner.fit()
    assert [row["epoch"] for row in rows] == list(range(1, 13))
    assert rows[-1]["train_loss"] < 0.5 * rows[0]["train_loss"]
    assert rows[-1]["test_accuracy"] >= 0.9  # chance: 0.5 +- 0.08


@pytest.mark.parametrize("stop", [1, 3, 4])
def test_a_run_goes_on_bit_by_bit_from_any_step(stop):
    whole = trainer(drop_path=0.5)
    rows = whole.fit()

    class Stop(Exception):
        pass

    def after_step():
        if first.progress.step == stop:
            raise Stop

    first = trainer(drop_path=0.5)
    if stop < 4:
        with pytest.raises(Stop):
            first.fit(step_done=after_step)
    else:
        first.fit()
    saved = {name: array.copy() for name, array in first.arrays().items()}
    second = trainer(drop_path=0.5, model=InternImage(**TINY, drop_path_rate=0.5, rng=99))
    second.resume(first.progress, saved)
    later = second.fit()
    assert_same_bits(second.arrays(), whole.arrays())
    assert_same_bits(second.finished(), whole.finished())
    assert without_time(later) == without_time(rows[stop // 2 :])


def test_every_epoch_shows_every_image_at_most_once_in_an_order_of_its_own():
    run = trainer()
    epochs = [np.concatenate([run.batch(2 * epoch + place) for place in range(2)]) for epoch in range(3)]
    for order in epochs:
        assert len(set(order)) == 12
        assert set(order) <= set(range(15))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(run.batch(0), trainer(seed=6).batch(0))


def test_training_and_test_change_nothing_but_what_they_say():
    run = trainer(average=0.0)
    before = {name: array.copy() for name, array in run.arrays().items()}
    first = run.evaluate()
    assert run.evaluate() == first
    assert_same_bits(run.arrays(), before)
    run.step()
    changed = [name for name, array in run.arrays().items() if not np.array_equal(array, before[name])]
    assert "model.head.weight" in changed
    assert run.progress.step == 1
    assert_same_bits(run.finished(), run.model.state_dict())


def test_the_averaged_weights_are_what_is_tested_and_kept():
    run = trainer(average=0.9, lr=1e-2)
    run.fit()
    kept = run.finished()
    assert not np.array_equal(kept["head.weight"], run.model.head.weight.value)
    plain = trainer(average=0.0)
    plain.model.load_state_dict(kept)
    assert plain.evaluate() == run.evaluate()


def test_a_high_learning_rate_ends_with_a_message_that_names_step_and_layer():
    run = trainer(lr=1e6, clip=0.0, warmup=0.0, epochs=40)
    with pytest.raises(
        Diverged, match=r"training diverged in step \d+ \(epoch \d+\): loss .*, gradient norm .*; "
    ) as e:
        run.fit()
    assert any(name in str(e.value) for name, _ in run.model.named_modules() if name)
    assert all(np.isfinite(p.value).all() for p in run.model.parameters()), "the bad step was not taken"


def test_nan_in_the_weights_is_traced_to_them():
    run = trainer()
    run.model.head.bias.value = np.array([0, np.nan])
    with pytest.raises(Diverged, match=r"in step 1 \(epoch 1\): loss nan, .*; head.bias holds NaN"):
        run.fit()


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="batch must be at most the 15 training images, got 16"):
        trainer(batch=16)
    run = trainer()
    with pytest.raises(ValueError, match="computed on backend 'cpu'; here 'numpy' is in force"):
        run.resume(trainer(backend="cpu").progress, run.arrays())
    with pytest.raises(ValueError, match=r"head\.weight"):
        run.resume(run.progress, {k: a for k, a in run.arrays().items() if k != "model.head.weight"})


def test_any_classifier_can_be_trained():
    net = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8, rng=0), nn.GELU(), nn.GlobalAveragePool(), nn.Linear(4, 2, rng=1))
    rows = trainer(model=net).fit()
    assert len(rows) == 2
    assert all(np.isfinite(row["test_loss"]) for row in rows)

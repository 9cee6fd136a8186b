"""The classes of a photo: their order, probabilities and names."""

import sys

import numpy as np
import pytest

from dcnlab import InternImage
from dcnlab.internimage import class_names as names_module
from dcnlab.internimage import classify
from dcnlab.internimage.class_names import class_names
from dcnlab.internimage.prediction import published_size, variant_of

TINY = {"channels": 8, "depths": [1, 1, 1, 1], "groups": [1, 2, 4, 8], "rng": 0}
PHOTO = np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3)


def model_that_says(logits):
    """A model whose answer does not depend on the photo."""
    model = InternImage(**TINY, num_classes=len(logits)).eval()
    model.head.weight.value = np.zeros(model.head.weight.shape)
    model.head.bias.value = np.array(logits)
    return model


def test_order_probabilities_and_indices():
    model = model_that_says(np.log([1, 5, 2, 8, 4]))  # softmax: 0.05, 0.25, 0.1, 0.4, 0.2
    found = classify(model, PHOTO, top=3, size=32)
    assert [p.class_index for p in found] == [3, 1, 4]
    assert [p.probability for p in found] == pytest.approx([0.4, 0.25, 0.2], rel=1e-6)
    assert [p.name for p in found] == [None] * 3
    everything = classify(model, PHOTO, top=99, size=32)
    assert [p.class_index for p in everything] == [3, 1, 4, 2, 0]
    assert sum(p.probability for p in everything) == pytest.approx(1, rel=1e-12)


def test_equal_scores_come_in_order():
    assert [p.class_index for p in classify(model_that_says([1.0, 2.0, 2.0, 2.0]), PHOTO, top=4, size=32)] == [
        1,
        2,
        3,
        0,
    ]


def test_the_answer_is_that_of_the_model(rng):
    from dcnlab.internimage import preprocess

    model = InternImage(**TINY, num_classes=7).eval()
    for _, parameter in model.named_parameters():
        parameter.value = parameter.value + 0.2 * rng.standard_normal(parameter.shape)
    logits = model(preprocess(PHOTO, 40))[0].astype(float)
    found = classify(model, PHOTO, top=7, size=40)
    assert [p.class_index for p in found] == np.argsort(-logits).tolist()
    shares = np.exp(logits) / np.exp(logits).sum()
    assert [p.probability for p in found] == pytest.approx(sorted(shares, reverse=True), rel=1e-5)


def test_nothing_is_kept_for_a_backward_pass():
    model = model_that_says([1.0, 2.0])
    classify(model, PHOTO, size=32)
    with pytest.raises(RuntimeError, match="no forward pass"):
        model.backward(np.ones((1, 2), np.float32))


def test_sizes_are_those_of_the_variants():
    assert variant_of(InternImage(**InternImage.variants["H"])) == "H"
    assert published_size(InternImage(**InternImage.variants["H"])) == 640
    assert published_size(InternImage(**InternImage.variants["XL"])) == 384
    assert variant_of(InternImage(**TINY)) is None
    assert published_size(InternImage(**TINY)) == 224


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.train(), r"call model\.eval\(\) first"),
        (
            lambda m: setattr(m.head.bias, "value", np.array([np.nan, 1, np.inf])),
            "2 of the 3 class scores are not finite",
        ),
        (lambda m: setattr(m, "head_layers", None), "has no head"),
    ],
)
def test_a_model_that_cannot_answer(change, message):
    model = model_that_says([1.0, 2.0, 3.0])
    change(model)
    with pytest.raises(ValueError, match=message):
        classify(model, PHOTO, size=32)


def test_top_must_be_positive():
    with pytest.raises(ValueError, match="top must be an int of at least 1, got 0"):
        classify(model_that_says([1.0, 2.0]), PHOTO, top=0, size=32)


# -- names ---------------------------------------------------------------------------------------------------------

WORDS = [f"thing {i}" for i in range(1000)]


@pytest.fixture
def no_packages(monkeypatch):
    monkeypatch.setattr(names_module, "_folder", lambda package: None)


def install(monkeypatch, tmp_path, package, files):
    """Put a package on the path that must not be imported."""
    folder = tmp_path / package
    for name, text in {"__init__.py": "raise SystemExit('imported')", **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [n for n in sys.modules if n.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)


def torchvision_file(words):
    return f'"""Private."""\nraise SystemExit\n_COCO_CATEGORIES = ["person"]\n_IMAGENET_CATEGORIES = {words!r}\n'


def test_names_of_torchvision(monkeypatch, tmp_path):
    install(monkeypatch, tmp_path, "torchvision", {"models/_meta.py": torchvision_file(WORDS)})
    assert class_names(1000) == ("torchvision", WORDS)
    assert class_names(21841) is None
    assert class_names(999) is None
    found = classify(model_that_says(-np.arange(1000.0)), PHOTO, top=2, size=32)
    assert [p.name for p in found] == ["thing 0", "thing 1"]
    assert "torchvision" not in sys.modules


def test_names_of_timm_are_in_the_order_of_the_numbers(monkeypatch, tmp_path):
    numbers = [f"n{9000 - i:08}" for i in range(1000)]  # not sorted: the order is that of the list
    lemmas = "\n".join(f"{number}\t{word}, other" for number, word in sorted(zip(numbers, WORDS, strict=True)))
    files = {
        "data/_info/imagenet_synsets.txt": "\n".join(numbers) + "\n",
        "data/_info/imagenet_synset_to_lemma.txt": lemmas + "\nn99999999\tunused\n",
    }
    install(monkeypatch, tmp_path, "timm", files)
    real = names_module._folder
    monkeypatch.setattr(names_module, "_folder", lambda package: None if package == "torchvision" else real(package))
    assert class_names(1000) == ("timm", [f"{word}, other" for word in WORDS])


@pytest.mark.parametrize(
    "content",
    ["_IMAGENET_CATEGORIES = [", "_IMAGENET_CATEGORIES = open('x')", "", torchvision_file(WORDS[:5]), "\0", None],
    ids=["broken", "a call", "empty", "too few", "null byte", "missing"],
)
def test_files_of_another_form_give_no_names(monkeypatch, tmp_path, content):
    install(monkeypatch, tmp_path, "torchvision", {} if content is None else {"models/_meta.py": content})
    real = names_module._folder
    monkeypatch.setattr(names_module, "_folder", lambda package: real(package) if package == "torchvision" else None)
    assert class_names(1000) is None


def test_without_packages_there_are_no_names(no_packages):
    assert class_names(1000) is None

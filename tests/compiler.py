"""Tests that compile kernels for the CPU: skipped with the reason where that cannot be done, unless it must be."""

from __future__ import annotations

import os

import pytest

from dcnlab.errors import BackendUnavailable
from dcnlab.launch import find_compiler


def require_compiler():
    try:
        find_compiler()
    except BackendUnavailable as error:
        if os.environ.get("DCNLAB_REQUIRE_CPU_KERNELS") == "1":
            pytest.fail(f"DCNLAB_REQUIRE_CPU_KERNELS=1, but {error}")
        pytest.skip(str(error))

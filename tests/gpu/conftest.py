"""The stand-in for a GPU."""

from collections.abc import Iterator

import checked_device
import pytest


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[checked_device.Log]:
    """The log of a device that the project takes for a GPU."""
    with checked_device.active(monkeypatch) as log:
        yield log

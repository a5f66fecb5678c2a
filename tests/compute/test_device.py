"""The switches of a GPU's arithmetic: readable while they are set, and put back; no GPU is needed to set them."""

from collections.abc import Iterator

import pytest
import torch

from lrec.compute import device

BACKENDS = (
    torch.backends.cuda.matmul,
    torch.backends.mkldnn.matmul,
    torch.backends.cudnn.conv,
    torch.backends.cudnn.rnn,
)


@pytest.fixture(autouse=True)
def _default() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.fp32_precision = "none"


def state() -> list[str]:
    return [backend.fp32_precision for backend in BACKENDS]


@pytest.mark.parametrize("before", ["highest", "high", "medium"])
@pytest.mark.parametrize("tf32", [True, False])
def test_the_general_switches_stay_readable(before: str, tf32: bool):
    torch.set_float32_matmul_precision(before)
    saved = state()
    with device.arithmetic("cuda", tf32, deterministic=False):
        assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == tf32
        assert torch.backends.cuda.matmul.fp32_precision == ("tf32" if tf32 else "ieee")
    assert torch.get_float32_matmul_precision() == before
    assert torch.backends.cudnn.allow_tf32
    assert state() == saved


@pytest.mark.parametrize("switch", [torch.backends, torch.backends.cuda.matmul], ids=["all", "cuda"])
@pytest.mark.parametrize("tf32", [True, False])
def test_a_precision_that_was_set_for_a_backend(switch, tf32: bool):
    switch.fp32_precision = "tf32"
    saved = state()
    with device.arithmetic("cuda", tf32, deterministic=False):
        assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")
        wanted = "tf32" if tf32 else "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == torch.backends.cudnn.conv.fp32_precision == wanted
    assert state() == saved


def test_determinism_is_put_back():
    with device.arithmetic("cuda", False, deterministic=True):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_cpu_is_left_as_it_is():
    saved = state()
    with device.arithmetic("cpu", False, deterministic=True):
        assert state() == saved
        assert not torch.are_deterministic_algorithms_enabled()

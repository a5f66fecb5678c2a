"""The switches of a GPU's arithmetic: readable while they are set, and put back; no GPU is needed to set them."""

from collections.abc import Iterator
from contextlib import nullcontext

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
def _default(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
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


def refuse(*_, **__) -> None:
    raise torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device")


def test_a_gpu_that_torch_has_no_kernels_for_is_not_chosen(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", refuse)
    assert device.choose("auto") == "cpu"
    warning = "warning: the GPU is not used, it fails at its first kernel (CUDA error: no kernel image"
    assert warning in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"found 'cuda', which is not available here \(CUDA error: no kernel image"):
        device.choose("cuda")


@pytest.mark.parametrize(("has", "chosen"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_on_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch, has: bool, chosen: str):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "an old GPU")
    assert device.choose_precision("cuda", "auto") == chosen
    assert device.choose_precision("cpu", "auto") == device.choose_precision("cpu", "float32") == "float32"
    if not has:
        with pytest.raises(ValueError, match="found bfloat16, which an old GPU.* has no instructions for"):
            device.choose_precision("cuda", "bfloat16")


def test_work_may_take_half_of_what_is_free(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (600, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 300)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 100)
    assert device.working_memory("cuda", 7) == 400
    assert device.working_memory("cpu", 7) == 7


def test_determinism_fills_no_memory():
    with device.arithmetic("cuda", False, deterministic=True):
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert torch.utils.deterministic.fill_uninitialized_memory

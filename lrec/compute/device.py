"""Choice of the device and of the arithmetic that runs on it."""

import contextlib
import os
from collections.abc import Iterator

import torch

# Other types hold no numbers (meta), have no float64 (mps), or were never tested.
TYPES = ("cpu", "cuda")


def choose(name: str) -> str:
    """Return the device for a parameter: "auto" takes a CUDA GPU where there is one.

    Raises:
        ValueError: no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if torch.device(name).type not in TYPES:
            raise RuntimeError(f"expected auto or one of {', '.join(TYPES)}")
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"device: found {name!r}, which is not available here ({reason}); set auto or cpu") from error
    return name


def describe(device: str) -> str:
    """Return one line on the device, for logs and run records."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"


def autocast(device: str, precision: str) -> contextlib.AbstractContextManager:
    """Return the context of a forward pass: bfloat16 autocast, or plain float32."""
    if precision == "bfloat16":
        return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def bfloat16_instructions() -> set[str]:
    """Return the CPU's instructions for bfloat16, by torch's names; none if this version of torch does not say."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return {name for name in ("avx512_bf16", "amx_bf16", "bf16") if capabilities.get(name)}


def require_native(device: str, precision: str) -> None:
    """Refuse bfloat16 where it would be emulated, several times slower than float32.

    Raises:
        ValueError: it would be.
    """
    if precision != "bfloat16":
        return
    if torch.device(device).type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = bool(bfloat16_instructions())
    if not native:
        raise ValueError(f"precision: found bfloat16, which {describe(device)} has no instructions for; set float32")


@contextlib.contextmanager
def arithmetic(device: str, tf32: bool, deterministic: bool, tuned: bool = True) -> Iterator[None]:
    """Set how a GPU computes while the block runs; a CPU computes in float32 and deterministically in any case.

    Args:
        device: where the block computes.
        tf32: round the factors of float32 products to 10 bits of mantissa: several times faster.
        deterministic: the same bytes for the same seed, at some cost in speed; an operation that has no
            deterministic form is an error.
        tuned: let cuDNN time its algorithms for every new shape; not if deterministic.
    """
    if torch.device(device).type != "cuda":
        yield
        return
    tuned_before, deterministic_before = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    if deterministic:
        if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):  # those that repeat their bytes
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when cuBLAS starts
    torch.backends.cudnn.benchmark = tuned and not deterministic
    torch.use_deterministic_algorithms(deterministic or deterministic_before)
    try:
        with _tf32(tf32):
            yield
    finally:
        torch.backends.cudnn.benchmark = tuned_before
        torch.use_deterministic_algorithms(deterministic_before)


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in products and convolutions while the block runs.

    torch has two sets of switches. The general ones are set here, because torch.compile reads them. The ones of the
    single backends are saved, because reading a general one is an error where they differ from it.
    """
    backends = torch.backends
    switches = (backends.cuda.matmul, backends.mkldnn.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    before = [switch.fp32_precision for switch in switches]
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    backends.cudnn.allow_tf32 = allowed
    backends.cudnn.conv.fp32_precision = backends.cudnn.rnn.fp32_precision = "tf32" if allowed else "ieee"
    try:
        yield
    finally:
        general = {("tf32", "bf16"): "medium", ("tf32", "tf32"): "high"}
        torch.set_float32_matmul_precision(general.get((before[0], before[1]), "highest"))
        backends.cudnn.allow_tf32 = before[2] == "tf32"
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision

"""Choice of the device, its arithmetic, and the memory that work on it may use."""

import contextlib
import os
import sys
from collections.abc import Iterator

import torch
import torch.utils.deterministic

# Other types store no values (meta), have no float64 (mps), or are untested.
TYPES = ("cpu", "cuda")
_GPUS = {"cuda"}


def is_gpu(device: str | torch.device) -> bool:
    """Return whether a device is a GPU, asynchronous and with its own memory; tests may add a stand-in."""
    return torch.device(device).type in _GPUS


def choose(name: str) -> str:
    """Return the device for a parameter: "auto" is a CUDA GPU if there is one that can run a kernel, else the CPU.

    Raises:
        ValueError: the device is not available.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return "cpu"
        try:
            _run_kernel("cuda")
        except (RuntimeError, AssertionError) as error:
            reason = " ".join(str(error).split())[:160]
            print(f"warning: the GPU is not used, it fails at its first kernel ({reason})", file=sys.stderr)
            return "cpu"
        return "cuda"
    try:
        if torch.device(name).type not in TYPES:
            raise RuntimeError(f"expected auto or one of {', '.join(TYPES)}")
        _run_kernel(name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:160]
        raise ValueError(f"device: found {name!r}, which is not available here ({reason}); set auto or cpu") from error
    return name


def _run_kernel(name: str) -> None:
    """Run a kernel on a device: torch may find a GPU for which it has no kernels, and fails only when it is used."""
    if float(torch.ones(2, device=name).sum()) != 2:
        raise RuntimeError("it adds 1 and 1 to another number than 2")


def describe(device: str) -> str:
    """Return a one-line description of the device, for logs and run records."""
    if is_gpu(device):
        return f"{torch.get_device_module(device).get_device_name(device)}, torch {torch.__version__}"
    return f"CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"


def autocast(device: str, precision: str, cached: bool = True) -> contextlib.AbstractContextManager:
    """Return the context of a forward pass: bfloat16 autocast, or plain float32.

    Args:
        device: device of the forward pass.
        precision: "float32" or "bfloat16".
        cached: keep rounded weights until the block ends; False for CUDA graphs, whose replay must round them again.
    """
    if precision == "bfloat16":
        return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, cache_enabled=cached)
    return contextlib.nullcontext()


def bfloat16_instructions() -> set[str]:
    """Return the CPU's bfloat16 instructions, by torch's names; empty if this version of torch does not report them."""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return {name for name in ("avx512_bf16", "amx_bf16", "bf16") if capabilities.get(name)}


def _has_bfloat16(device: str) -> bool:
    if is_gpu(device):
        return torch.get_device_module(device).is_bf16_supported(including_emulation=False)
    return bool(bfloat16_instructions())


def choose_precision(device: str, precision: str) -> str:
    """Return the precision for a parameter: "auto" is bfloat16 on a GPU that supports it, else float32.

    Raises:
        ValueError: bfloat16 would be emulated here, several times slower than float32.
    """
    if precision == "auto":
        return "bfloat16" if is_gpu(device) and _has_bfloat16(device) else "float32"
    if precision == "bfloat16" and not _has_bfloat16(device):
        raise ValueError(f"precision: found bfloat16, which {describe(device)} has no instructions for; set float32")
    return precision


def working_memory(device: str | torch.device, on_cpu: int) -> int:
    """Return the bytes that work may use: `on_cpu` on a CPU, half of the free memory on a GPU.

    Memory that torch has reserved but does not use counts as free. The other half is for the libraries' workspaces.
    """
    if not is_gpu(device):
        return on_cpu
    module = torch.get_device_module(device)
    unused = module.memory_reserved(device) - module.memory_allocated(device)
    return (module.mem_get_info(device)[0] + unused) // 2


@contextlib.contextmanager
def arithmetic(device: str, tf32: bool, deterministic: bool, tuned: bool = True) -> Iterator[None]:
    """Make a GPU the current one, and set how it computes, while the block runs.

    Streams, events and recorded graphs belong to the current GPU, whichever tensors they are used with. A CPU computes
    in float32 and deterministically in any case.

    Args:
        device: where the block computes.
        tf32: round the factors of float32 products to 10 bits of mantissa, which is several times faster.
        deterministic: the same bytes for the same seed, at some cost in speed; an operation without a
            deterministic implementation is an error.
        tuned: let cuDNN time its algorithms for every new shape; ignored if deterministic.
    """
    if not is_gpu(device):
        yield
        return
    tuned_before, deterministic_before = torch.backends.cudnn.benchmark, torch.are_deterministic_algorithms_enabled()
    if deterministic:
        if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in (":4096:8", ":16:8"):  # the deterministic settings
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when cuBLAS starts
    torch.backends.cudnn.benchmark = tuned and not deterministic
    torch.use_deterministic_algorithms(deterministic or deterministic_before)
    # Deterministic mode would fill all new memory with NaN first; here, no uninitialised memory is read.
    filled_before = torch.utils.deterministic.fill_uninitialized_memory
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        with torch.get_device_module(device).device(device), _tf32(tf32):
            yield
    finally:
        torch.backends.cudnn.benchmark = tuned_before
        torch.use_deterministic_algorithms(deterministic_before)
        torch.utils.deterministic.fill_uninitialized_memory = filled_before


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in products and convolutions while the block runs.

    torch has general switches and one per backend. The general ones are set, because torch.compile reads them. Those of
    the backends are saved, because reading a general switch is an error if a backend differs from it.
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

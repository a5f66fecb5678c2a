"""Choice of the device and of the arithmetic that runs on it."""

import contextlib
import os
from collections.abc import Iterator

import torch

# Others hold no numbers (meta), or no float64 (mps), or were never tried.
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
        raise ValueError(f"device: found {name!r}, which is not to be had here ({reason}); set auto or cpu") from error
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
    """Return the processor's instructions for bfloat16, by torch's names; none where an older torch does not tell."""
    found = getattr(torch.cpu, "get_capabilities", dict)()
    return {name for name in ("avx512_bf16", "amx_bf16", "bf16") if found.get(name)}


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
    """Set how a GPU computes while the block runs; a processor computes in float32 and repeats its bytes anyway.

    Args:
        device: where the block computes.
        tf32: round the factors of float32 products to 10 bits of mantissa: several times faster.
        deterministic: the same bytes for the same seed, at some cost in speed; what cannot be had so fails.
        tuned: let cuDNN time its algorithms for every new shape; not if deterministic.
    """
    if torch.device(device).type != "cuda":
        yield
        return
    backends = torch.backends
    before = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark
    repeated = torch.are_deterministic_algorithms_enabled()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = tf32
    backends.cudnn.benchmark = tuned and not deterministic
    torch.use_deterministic_algorithms(deterministic or repeated)
    try:
        yield
    finally:
        backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32, backends.cudnn.benchmark = before
        torch.use_deterministic_algorithms(repeated)

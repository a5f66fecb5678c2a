"""A simulated device with the rules of a CUDA GPU, which computes on the CPU, for tests without a GPU.

Its tensors report the device "checked:0", which is the current one only in the block of the module's `device`, as if
it were not the first GPU. What CUDA refuses is an error: operands on different devices, a CPU tensor indexed by a
tensor on the device, synchronisation while a graph is recorded. So is a graph recorded while another device is the
current one, which CUDA leaves empty. Operations for which the CPU waits for a GPU are counted: reading values, sizes
that depend on values, copies from or to pageable memory. The target of an asynchronous copy to the CPU contains
garbage until a later event has been waited for.

Not simulated: autocast's choice of kernels, cuDNN, NCCL, and the capture of graphs.
"""

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.utils.backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from lrec.compute import device as lrec_device

NAME = "checked"
aten = torch.ops.aten
COPIES = {aten.copy_.default, aten._to_copy.default}
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
# Operations that read values, or return a tensor whose size depends on values.
WAITS = {
    aten._local_scalar_dense.default,
    aten._unique2.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
}
# A scalar on the CPU may be combined with tensors on the device, except in these operations of fused optimisers.
ALL_ON_DEVICE = ("_fused_adam", "_foreach")


class Violation(RuntimeError):
    """An operation that CUDA would refuse."""


class Log:
    """A log of events on the device.

    Attributes:
        waits: how often the CPU waited, by reason and line of the project.
        recording: the graph that is being recorded, if any.
        queued: unfinished copies to the CPU: target, values.
        is_current: whether the device is the current one.
        replays: number of replays of graphs.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self.waits: Counter[tuple[str, str]] = Counter()
        self.queued: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.recording: Graph | None = None
        self.replays = 0
        self.is_current = False

    def wait(self, reason: str) -> None:
        """Record that the CPU waits for all queued work of the device."""
        if self.recording:
            raise Violation(f"the CPU waits while a graph is recorded: {reason}")
        self.waits[reason, _line()] += 1
        self.finish(len(self.queued))

    def finish(self, count: int) -> None:
        """Finish the first `count` copies."""
        for target, values in self.queued[:count]:
            target.copy_(values)
        del self.queued[:count]

    @property
    def total(self) -> int:
        """How often the CPU waited."""
        return self.waits.total()


LOG = Log()


def _line() -> str:
    """Return the line of the project that called the operation, otherwise the test's line."""
    frame, last = sys._getframe(2), "?"
    while frame:
        name = frame.f_code.co_filename
        if "/lrec/" in name and "site-packages" not in name:
            return f"{name.rsplit('/lrec/', 1)[1]}:{frame.f_lineno}"
        if "/tests/gpu/" in name and last == "?":
            last = f"{name.rsplit('/', 1)[1]}:{frame.f_lineno}"
        frame = frame.f_back
    return last


class Tensor(torch.Tensor):
    """A tensor on the device; `inner` contains its values."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Tensor":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=torch.device(NAME, 0),
        )

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    def tolist(self) -> Any:
        LOG.wait("tolist")
        return self.inner.tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise Violation("numpy of a tensor on the device")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise Violation("numpy of a tensor on the device")

    def __repr__(self, **_: Any) -> str:
        return f"checked_device.Tensor({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class _Mode(TorchDispatchMode):
    """Intercepts operations that create tensors on the device without having one as an argument."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


def _is_ours(value: Any) -> bool:
    return isinstance(value, Tensor)


def _is_composite(function: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd")


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Check an operation, then compute it on the CPU."""
    flat, _ = tree_flatten((args, kwargs))
    ours = [value for value in flat if _is_ours(value)]
    target = kwargs.get("device")
    to_gpu = target is not None and torch.device(target).type == NAME
    if not ours and not to_gpu:
        return function(*args, **kwargs)
    if function not in COPIES and _is_composite(function):
        with _Mode():  # inference mode does not decompose these by itself
            return function.decompose(*args, **kwargs)
    if ours and function not in COPIES:
        _require_one_device(function, args, flat)
    if function in WAITS or (function is aten.repeat_interleave.Tensor and kwargs.get("output_size") is None):
        LOG.wait(function.name())
    if function in INDEXED and any(_mask(index) for index in args[1]):
        LOG.wait("index by a mask")
    known = {id(value.inner): value for value in ours}
    inner_args, inner_kwargs = tree_map(lambda value: value.inner if _is_ours(value) else value, (args, dict(kwargs)))
    if target is not None:
        inner_kwargs["device"] = torch.device("cpu")
    if function in COPIES and (copied := _copy_across(function, args, kwargs, inner_args, inner_kwargs)) is not None:
        return copied
    if LOG.recording:
        found = LOG.recording.record(function, inner_args, inner_kwargs)
    else:
        found = function(*inner_args, **inner_kwargs)
    return tree_map(lambda value: _outer(value, known), found)


def _outer(value: Any, known: dict[int, Tensor]) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return known[id(value)] if id(value) in known else Tensor(value)


def _mask(index: Any) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)


def _require_one_device(function: Any, args: Any, flat: list[Any]) -> None:
    other = [value for value in flat if isinstance(value, torch.Tensor) and not _is_ours(value)]
    name = function.name()
    if function in INDEXED:
        if not _is_ours(args[0]):
            raise Violation(f"{name}: a tensor on the CPU is indexed by one on the device")
        if any(value is index for value in other for index in args[1]):
            LOG.wait("index on the CPU")
        other = [value for value in other if not any(value is index for index in args[1])]
    strict = any(part in name for part in ALL_ON_DEVICE)
    if found := [tuple(value.shape) for value in other if value.dim() > 0 or strict]:
        raise Violation(f"{name}: tensors on the device and on the CPU, of shapes {found}")


def _copy_across(function: Any, args: Any, kwargs: Any, inner_args: Any, inner_kwargs: Any) -> torch.Tensor | None:
    """Copy between the CPU and the device; return None for any other copy."""
    queued = bool(kwargs.get("non_blocking") or (function is aten.copy_.default and len(args) > 2 and args[2]))
    if function is aten.copy_.default:
        source, target = args[1], args[0]
        if _is_ours(source) == _is_ours(target):
            return None
        if _is_ours(target):
            _send(source, queued)
            target.inner.copy_(inner_args[1])
            return target
        return _bring(source.inner, target, queued and getattr(target, "pinned", False))
    to = kwargs.get("device")
    if to is None or (torch.device(to).type == NAME) == _is_ours(args[0]):
        return None
    if _is_ours(args[0]):
        values = function(*inner_args, **inner_kwargs)
        values = values.clone() if values is inner_args[0] else values
        return _bring(values, torch.empty_like(values), queued)
    _send(args[0], queued)
    return Tensor(function(*inner_args, **inner_kwargs))


def _send(source: torch.Tensor, queued: bool) -> None:
    if not (queued and getattr(source, "pinned", False)) and source.dim() + queued > 0:
        LOG.wait("copy from pageable memory")


def _bring(values: torch.Tensor, target: torch.Tensor, queued: bool) -> torch.Tensor:
    if not queued:
        LOG.wait("copy to the CPU")
        return target.copy_(values)
    target.fill_(torch.nan if target.is_floating_point() else -(2**7) if target.dtype != torch.uint8 else 255)
    LOG.queued.append((target, values.clone()))
    return target


class Event:
    """An event in the device's only stream, or in that of another device, which has no copies."""

    def record(self, stream: str | None = None) -> None:
        """Record the copies that are queued now in a stream, by default that of the current device."""
        queued = LOG.queued if (stream or _current_stream()) == NAME else []
        self.last = queued[-1][0] if queued else None

    def synchronize(self) -> None:
        """Wait for the event."""
        LOG.waits["event", _line()] += 1
        places = [place for place, (target, _) in enumerate(LOG.queued) if target is self.last]
        LOG.finish(places[0] + 1 if places else 0)


class Graph:
    """A graph of operations on fixed memory. As on a GPU, recording changes nothing: changes are undone afterwards."""

    def __init__(self) -> None:
        self._operations: list[tuple[Any, Any, dict[str, Any], Any]] = []
        self._changed: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def record(self, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """Record an operation; run it to get the shapes of its results."""
        hidden = "batch_norm" in function.name()  # changes its running averages, without declaring it
        for place, argument in enumerate(function._schema.arguments):
            if hidden or (argument.alias_info is not None and argument.alias_info.is_write):
                given = args[place] if place < len(args) else kwargs.get(argument.name)
                for value in tree_flatten(given)[0]:
                    if isinstance(value, torch.Tensor):
                        self._changed.setdefault(id(value), (value, value.clone()))
        found = function(*args, **kwargs)
        self._operations.append((function, args, kwargs, found))
        return found

    def put_back(self) -> None:
        """Undo all changes, the last first, because views share memory."""
        for value, before in reversed(list(self._changed.values())):
            value.copy_(before)
        self._changed.clear()

    def replay(self) -> None:
        """Repeat the operations on the same memory."""
        LOG.replays += 1
        for function, args, kwargs, before in self._operations:
            again = function(*args, **kwargs)
            for old, new in zip(tree_flatten(before)[0], tree_flatten(again)[0], strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@contextlib.contextmanager
def _graph(graph: Graph, **_: Any) -> Iterator[None]:
    if not LOG.is_current:
        raise Violation("a graph is recorded while another device is the current one")
    LOG.recording = graph
    try:
        yield
    finally:
        LOG.recording = None
        graph.put_back()


@contextlib.contextmanager
def _device(device: str) -> Iterator[None]:
    """Make the device the current one."""
    before, LOG.is_current = LOG.is_current, torch.device(device).type == NAME
    try:
        yield
    finally:
        LOG.is_current = before


def _current_stream(device: Any = None) -> str:
    """Return the stream of a device, by default the current one: streams are named like devices here."""
    return torch.device(device).type if device else NAME if LOG.is_current else "another"


def _module() -> Any:
    """Return the device's module, the counterpart of torch.cuda."""
    module = torch.utils.backend_registration._DummyBackendModule()
    for name, value in {
        "Event": Event,
        "CUDAGraph": Graph,
        "graph": _graph,
        "graph_pool_handle": lambda: (0, 0),
        "device": _device,
        "current_stream": _current_stream,
        # Only during a test, because torch.nn.DataParallel and the like use any available device.
        "is_available": lambda: NAME in lrec_device._GPUS,
        "get_device_name": lambda *_: "a checked device",
        "get_amp_supported_dtype": lambda: [torch.bfloat16],
        "is_bf16_supported": lambda including_emulation=True: True,
        "mem_get_info": lambda *_: (2**30, 2**31),
        "memory_allocated": lambda *_: 0,
        "memory_reserved": lambda *_: 0,
        "synchronize": lambda *_: LOG.wait("synchronize"),
    }.items():
        setattr(module, name, value)
    return module


def register() -> None:
    """Register the device with torch, for the rest of the process."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        torch.utils.backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_module())


@contextlib.contextmanager
def active(patch: pytest.MonkeyPatch) -> Iterator[Log]:
    """Make the project treat the device as a GPU until the block ends."""
    register()
    made: Callable[..., torch.Tensor] = torch.tensor

    def tensor(data: Any, *, device: Any = None, **options: Any) -> torch.Tensor:
        """Create a tensor on the CPU, then copy it, as with CUDA."""
        if device is not None and torch.device(device).type == NAME:
            return made(data, **options).to(device)
        return made(data, device=device, **options)

    def pinned(values: torch.Tensor, *_: Any) -> torch.Tensor:
        copied = values.clone()
        copied.pinned = True
        return copied

    patch.setattr(torch, "tensor", tensor)
    patch.setattr(torch.Tensor, "pin_memory", pinned)
    patch.setattr(lrec_device, "_GPUS", {"cuda", NAME})
    LOG.clear()
    with _Mode():
        yield LOG

"""Starting weights from a file that are refused: damaged, of another network, of odd kinds, missing, and hostile."""

import io
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline as tiny
import torch
import torchvision
from damage import cut
from weight_files import State, prefixed, safe, saved, use

from lrec.model import weights

FIRST, LAST = "features.0.0.weight", "features.18.1.bias"


def one(key: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[State], State]:
    return lambda state: state | {key: change(state[key])}


def without(*keys: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if key not in keys}


def nan(value: torch.Tensor) -> torch.Tensor:
    value = value.clone()
    value.view(-1)[0] = torch.nan
    return value


# Name: what becomes of the state dict, what the line says; for both formats.
STATES: dict[str, tuple[Callable[[State], State], str]] = {
    "without a key": (without(FIRST), f"1 entries differ from torchvision's, the first is {FIRST}: found none"),
    "one key more": (lambda s: s | {"more": torch.zeros(2)}, "1 entries differ .* the first is more: found .2,."),
    "empty": (lambda s: {}, "entries differ from torchvision's"),
    "prefixed, of another network": (
        lambda s: prefixed("module.")(without(FIRST)(s)),
        "entries differ from torchvision's, the first is",
    ),
    "of resnet18": (lambda s: torchvision.models.resnet18(weights=None).state_dict(), "these are weights of resnet18"),
    "another shape": (
        one(FIRST, lambda v: v[:5].clone()),
        f"the first is {FIRST}: found .5, 3, 3, 3., expected .32, 3",
    ),
    "one dimension less": (one(FIRST, lambda v: v[0].clone()), f"the first is {FIRST}"),
    "nan": (one(LAST, nan), f"a value that is not finite in {LAST}"),
    "infinite": (one(FIRST, lambda v: v / 0), f"a value that is not finite in {FIRST}"),
    "complex": (one(FIRST, lambda v: v.to(torch.complex64)), f"a tensor of torch.complex64.* as {FIRST}"),
}
# What only .pth can hold.
OBJECTS: dict[str, tuple[Callable[[State], object], str]] = {
    "a list": (lambda s: [1], "found list, expected a state dict"),
    "a tensor": (lambda s: torch.zeros(3), "found Tensor, expected a state dict"),
    "two networks": (
        lambda s: prefixed("encoder_q.")(s) | prefixed("encoder_k.")(s),
        "found 2 networks of mobilenet_v2, .*'encoder_k.' .*'encoder_q.' .*, expected one",
    ),
    "an optimiser's state": (
        lambda s: {"epoch": 3, "optimizer": {"state": {0: {"step": torch.zeros(1)}}, "param_groups": []}},
        "found dict with the keys 'epoch', 'optimizer', expected a state dict in torchvision's keys",
    ),
    "a checkpoint of another network": (
        lambda s: {"state_dict": torchvision.models.resnet18(weights=None).state_dict()},
        "state dicts under 'state_dict', .* all entries of mobilenet_v2.*; these are weights of resnet18",
    ),
    "numbers as keys": (lambda s: dict(enumerate(s.values())), "found dict with the keys 0, .*, expected a state dict"),
    "sparse": (one(FIRST, lambda v: v.view(32, -1).to_sparse()), "torch.sparse_coo|no weights that load safely"),
    "quantised": (one(FIRST, lambda v: v.to(torch.float16).to("meta")), "on meta"),
    "of no memory": (
        one(FIRST, lambda v: torch.zeros(1).expand(10**6, 10**6)),
        rf"\(1000000, 1000000\) in 4 bytes as {FIRST}",
    ),
    "a module": (
        lambda s: torchvision.models.mobilenet_v2(weights=None),
        "no weights that load safely .an object of torchvision.models.mobilenetv2.MobileNetV2, as of a whole module .*"
        "save the network's state_dict\\(\\) alone",
    ),
    "a wrapped module": (
        lambda s: {"model": torch.nn.DataParallel(torchvision.models.mobilenet_v2(weights=None))},
        "an object of torch.nn.parallel.data_parallel.DataParallel, as of a whole module",
    ),
}


def network(state: State) -> bytes:
    return saved(state)


def scripted() -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torchvision.models.mobilenet_v2(weights=None)), stream)
    return stream.getvalue()


def deflated(data: bytes) -> bytes:
    """An archive as torch writes it, and an entry that is compressed and unfolds to 100 MB."""
    stream = io.BytesIO(data)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED) as target:
        target.writestr("archive/more", bytes(100_000_000))
    return stream.getvalue()


BYTES: dict[str, tuple[str, Callable[[State], bytes], str]] = {
    **{
        f"pth cut at {share}": (".pth", lambda s, share=share: cut(share)(saved(s)), "load safely")
        for share in (0, 0.0001, 0.01, 0.5, 0.99, 0.9999)
    },
    **{
        f"safetensors cut at {share}": (
            ".safetensors",
            lambda s, share=share: cut(share)(safe(s)),
            "load safely",
        )
        for share in (0, 0.0000005, 0.001, 0.5, 0.9999)
    },
    "zeros": (".pth", lambda s: bytes(5000), "load safely"),
    "text": (".pth", lambda s: b"404 Not Found", "load safely"),
    "old format cut": (".pth", lambda s: saved(s, _use_new_zipfile_serialization=False)[:90_000], "load safely"),
    "compressed": (".pth", lambda s: deflated(saved(s)), "an archive of .* bytes that unfolds to"),
    "another archive": (".pth", lambda s: deflated(saved({})), "an archive of .* bytes that unfolds to"),
    "numpy": (".pth", lambda s: b"\x93NUMPY\x01\0" + bytes(300), "load safely"),
    "a long header": (".safetensors", lambda s: struct.pack("<Q", 2**60) + bytes(100), "load safely"),
    "no json": (".safetensors", lambda s: struct.pack("<Q", 4) + b"!!!!", "load safely"),
    "overlapping": (
        ".safetensors",
        lambda s: (
            struct.pack("<Q", 64) + b'{"a":{"dtype":"F32","shape":[9999],"data_offsets":[0,4]}}'.ljust(64) + bytes(4)
        ),
        "load safely",
    ),
    "pth named safetensors": (".safetensors", network, "load safely .its content is that of a .pth file; rename it"),
    "safetensors named pth": (".pth", safe, "load safely .its content is that of a .safetensors file; rename it"),
    "scripted": (".pth", lambda s: scripted(), "load safely .a TorchScript archive; save the network's state_dict"),
}
CASES: list[tuple[str, str, Callable[[State], bytes], str]] = [
    *(
        (f"{name} pth", ".pth", lambda s, c=change: saved(c(s)), line)
        for name, (change, line) in (STATES | OBJECTS).items()
    ),
    *(
        (f"{name} safetensors", ".safetensors", lambda s, c=change: safe(c(s)), line)
        for name, (change, line) in STATES.items()
    ),
    *((name, *rest) for name, rest in BYTES.items()),
]


UPTO = "meta_classes"  # the last stage that these tests need


@pytest.mark.parametrize(("name", "suffix", "make", "message"), CASES, ids=[case[0] for case in CASES])
def test_refused(
    project: Path,
    root: Path,
    state: State,
    capsys: pytest.CaptureFixture[str],
    name: str,
    suffix: str,
    make: Callable[[State], bytes],
    message: str,
) -> None:
    (project / f"w{suffix}").write_bytes(make(state))
    use(project, root, f"w{suffix}")
    line = tiny.refused(tiny.STAGES["train"], capsys)
    assert re.search(message, line), line
    assert f"w{suffix}" in line


@pytest.mark.parametrize("name", ["gone.pth", "folder", "", "w.txt", "\x1b[31m.pth"])
def test_no_file(project: Path, root: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (project / "folder").mkdir()
    use(project, root, name)
    assert "train.weights must be imagenet, none, or the path" in tiny.refused(tiny.STAGES["train"], capsys)


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("W.pth", "'w.pth' is there, which differs only in case"),
        ("w.safetensors", "'w.pth' is there, which differs only in its suffix"),
        ("folder", "it is a folder"),
        ("w.pth/x.pth", "w.pth is a file, not a folder"),
        ("deep.pth", "folder/deep.pth is there, one folder deeper"),
        ("link.pth", "it is a link to gone.pth, which is not there"),
    ],
)
def test_the_nearest_file_is_named(tmp_path: Path, written: str, hint: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "w.pth").touch()
    (tmp_path / "folder/deep.pth").touch()
    (tmp_path / "link.pth").symlink_to("gone.pth")
    with pytest.raises(FileNotFoundError, match=re.escape(hint)):
        weights.load("mobilenet_v2", str(tmp_path / written))


def test_damaged_anywhere(tmp_path: Path) -> None:
    """Bytes changed at random: weights, or a ValueError that names the file; nothing else."""
    generator, refusals = np.random.default_rng(0), 0
    small = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.int64)}
    kinds = {
        "w.pth": saved(small),
        "v.pth": saved(small, _use_new_zipfile_serialization=False),
        "w.safetensors": safe(small),
    }
    for name, data in kinds.items():
        path = tmp_path / name
        for _ in range(100):
            copy = bytearray(data)
            for _ in range(int(generator.integers(1, 4))):
                copy[generator.integers(len(copy))] = generator.integers(256)
            path.write_bytes(copy)
            error = failure(path)
            refusals += error is not None
            assert error is None or error.startswith(f"{path}: found ")
    assert refusals > 60


def failure(path: Path) -> str | None:
    """Return what is said of a file that is refused, None if it holds weights."""
    try:
        weights.load("mobilenet_v2", str(path))
    except ValueError as error:
        return str(error)
    return None


class Call:
    """Unpickling this calls a function."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("form", ["archive", "old format", "bare pickle", "inside a state dict", "in a list"])
def test_nothing_in_it_runs(
    project: Path, root: Path, state: State, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    mark = project / "mark"
    call = Call(eval, f"open({str(mark)!r}, 'w').close()")
    content = {
        "archive": lambda: saved(call),
        "old format": lambda: saved(call, _use_new_zipfile_serialization=False),
        "bare pickle": lambda: pickle.dumps(call),
        "inside a state dict": lambda: saved(state | {FIRST: call}),
        "in a list": lambda: saved([state, call]),
    }[form]()
    (project / "w.pth").write_bytes(content)
    use(project, root, "w.pth")
    line = tiny.refused(tiny.STAGES["train"], capsys)
    assert "w.pth: found no weights that load safely" in line
    assert not mark.exists()
    # The payload is live: what unpickles it runs it.
    torch.load(project / "w.pth", weights_only=False) if form != "bare pickle" else pickle.loads(content)
    assert mark.exists()

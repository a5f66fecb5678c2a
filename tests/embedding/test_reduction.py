"""A reduction is what a decomposition of the whole matrix gives, in bounded memory, and is told from another one."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.utils._python_dispatch
from safetensors import safe_open

from lrec.embedding import reduction
from lrec.embedding.reduction import Reduction
from lrec.io import hashing


def embeddings(images: int, width: int, seed: int = 0) -> np.ndarray:
    """Rows of unit norm whose variance falls from direction to direction, in no special basis."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(images, width)) * np.arange(1, width + 1) ** -0.7
    rotated = 0.3 + values @ np.linalg.qr(generator.normal(size=(width, width)))[0]
    return (rotated / np.linalg.norm(rotated, axis=1, keepdims=True)).astype(np.float32)


def decomposed(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Deviations and directions (one per row), by numpy."""
    exact = rows.astype(np.float64)
    _, values, transposed = np.linalg.svd(exact - exact.mean(0), full_matrices=False)
    return values / len(rows) ** 0.5, transposed


@pytest.mark.parametrize("shape", [(60, 8), (8, 60), (40, 40)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_components_are_those_of_a_decomposition(shape: tuple[int, int], dtype: type):
    rows = embeddings(*shape).astype(dtype)
    found = reduction.principal(rows, 3)
    deviations, directions = decomposed(rows)
    np.testing.assert_allclose(found.deviations, deviations[:3], rtol=1e-5)
    np.testing.assert_allclose(np.abs(np.sum(found.directions.numpy().T * directions[:3], 1)), 1, atol=1e-5)
    np.testing.assert_allclose(found.mean, rows.astype(np.float64).mean(0), atol=1e-6)


def test_wider_ones_than_the_subspace_are_close(monkeypatch: pytest.MonkeyPatch):
    """As features of many branches are, of more images than are carried as directions; in blocks of a few rows."""
    monkeypatch.setattr(reduction, "_LEAST", 1)
    monkeypatch.setattr(reduction, "_BLOCK", 2000)
    rows = embeddings(300, 200)
    found = reduction.principal(rows, 20)
    deviations, directions = decomposed(rows)
    np.testing.assert_allclose(found.deviations, deviations[:20], rtol=2e-3)
    kept = np.linalg.norm(directions[:20] @ found.directions.numpy(), axis=1)
    assert kept[:15].min() > 0.999
    assert kept.min() > 0.95


def test_whitened_rows_vary_alike_and_plain_ones_do_not():
    rows = embeddings(500, 12)
    components = reduction.principal(rows, 4)
    plain, whitened = (components.first(4, name) for name in ("pca", "whitened"))
    deviations, directions = decomposed(rows)
    projected = (rows - rows.mean(0, dtype=np.float64)) @ directions[:4].T
    for reduced, expected in ((plain, projected), (whitened, projected / deviations[:4])):
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
        found = reduced.apply_to(rows)
        np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-4)
    assert components.first(2, "pca").apply_to(rows).shape == (500, 2)


def test_directions_without_variance_are_not_blown_up():
    """Rows in a plane of five dimensions, but for rounding: what lies outside must not decide who is similar."""
    generator = np.random.default_rng(0)
    flat = generator.normal(size=(50, 2)) @ generator.normal(size=(2, 5))
    rows = flat.astype(np.float32)
    four = reduction.principal(rows, 4).first(4, "whitened").apply_to(rows)
    two = reduction.principal(rows, 2).first(2, "whitened").apply_to(rows)
    np.testing.assert_allclose(four @ four.T, two @ two.T, atol=1e-3)
    same = np.ones((6, 5), np.float32)
    assert np.isfinite(reduction.principal(same, 3).first(3, "whitened").apply_to(same)).all()


def test_directions_that_no_training_image_shows_do_not_decide():
    """Of 50 images in 100 dimensions one is a copy: other images vary as much outside of what they span as inside."""
    rows, others = np.split(embeddings(70, 100), [50])
    rows[49] = rows[0]
    components = reduction.principal(rows, 49)
    all_there, without_last = (components.first(k, "whitened").apply_to(others) for k in (49, 48))
    np.testing.assert_allclose(all_there @ all_there.T, without_last @ without_last.T, atol=1e-5)


class OnDisk:
    """Rows that may be read a block at a time only, as those of a memory map are."""

    def __init__(self, rows: np.ndarray, most: int) -> None:
        self.rows, self.shape, self.most = rows, rows.shape, most

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: slice) -> np.ndarray:
        assert self.rows[key].size <= self.most
        return self.rows[key]

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise AssertionError("all rows are read at once")


def test_rows_are_read_block_by_block_and_no_covariance_is_made(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reduction, "_LEAST", 1)
    monkeypatch.setattr(reduction, "_BLOCK", 3000)
    rows, most = embeddings(400, 300), 3000
    largest = []

    class Watched(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
            made = function(*arguments, **(keywords or {}))
            for value in made if isinstance(made, tuple | list) else [made]:
                largest.append(value.numel() if isinstance(value, torch.Tensor) else 0)
            return made

    with Watched():
        found = reduction.principal(OnDisk(rows, most), 4)
    assert max(largest) <= most  # a block; the basis has 300 x 8; neither 400 x 300 nor 300 x 300
    out = np.empty((400, 4), np.float16)
    reduced = found.first(4, "pca")
    reduced.fill(OnDisk(rows, most), out)
    np.testing.assert_array_equal(out, reduced.apply_to(rows).astype(np.float16))


def test_the_same_rows_give_the_same_bytes(tmp_path: Path, root: Path):
    """In another process, too, whose hashes of strings are others."""
    np.save(tmp_path / "rows.npy", embeddings(200, 50))
    code = (
        "import sys, numpy as np, torch; from pathlib import Path; from lrec.embedding import reduction as r\n"
        "torch.set_num_threads(1); rows = np.load(sys.argv[1], mmap_mode='r')\n"
        "about = {name: name for name in ('kind', 'model', 'data', 'reduce')}\n"
        "r.save(Path(sys.argv[2]), r.principal(rows, 6).first(6, 'whitened'), about)\n"
    )
    for name in "ab":
        call = [sys.executable, "-c", code, str(tmp_path / "rows.npy"), str(tmp_path / name)]
        subprocess.run(call, check=True, cwd=root)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_save_and_read(tmp_path: Path):
    path = tmp_path / reduction.FILE
    saved = reduction.principal(embeddings(30, 6), 3).first(3, "whitened")
    reduction.save(path, saved, {"kind": "logits"})
    again = reduction.read(path, hashing.of_file(path))
    assert torch.equal(again.mean, saved.mean)
    assert torch.equal(again.components, saved.components)
    with safe_open(path, "pt") as stream:
        assert json.loads(stream.metadata()["lrec"]) == {"kind": "logits"}
    reduction.save(path, Reduction(saved.mean, saved.components * 2), {"kind": "logits"})
    assert reduction.read(path).dimensions == 3
    with pytest.raises(ValueError, match=r"reduction\.safetensors: found another reduction .*run `dvc repro`"):
        reduction.read(path, "0" * 64)


MEAN, COMPONENTS = torch.zeros(6), torch.ones(6, 3)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"mean": MEAN}, "expected mean .d. and components"),
        ({"mean": MEAN, "components": MEAN + 1}, "expected mean .d. and components"),
        ({"mean": MEAN, "components": COMPONENTS.T.contiguous()}, "or a value that is not finite"),
        ({"mean": MEAN * torch.nan, "components": COMPONENTS}, "or a value that is not finite"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path: Path, state: dict[str, torch.Tensor], message: str):
    path = tmp_path / reduction.FILE
    with pytest.raises(FileNotFoundError, match=r"reduction\.safetensors: not found; run `dvc repro` \(stage embed\)"):
        reduction.read(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"^[^\n]*reduction\.safetensors: not a \.safetensors file [^\n]*$"):
        reduction.read(path)
    safetensors.torch.save_file(state, path)
    with pytest.raises(ValueError, match=rf"^[^\n]*{message}[^\n]*$"):
        reduction.read(path)

"""The reader of MATLAB files against scipy's."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from synthetic_sets import shared

from lrec.datasets import mat

REAL = (
    "car/cars_annos.mat",
    "car/devkit/cars_train_annos.mat",
    "car/devkit/cars_meta.mat",
    "annotations/cars_annos_all_16185.mat",
)


def plain(value: Any) -> Any:
    """A value of scipy's reader in the form of ours."""
    if value.dtype.names:
        return {name: [plain(entry) for entry in value[name].ravel(order="F")] for name in value.dtype.names}
    if value.dtype == object:
        return [plain(entry) for entry in value.ravel(order="F")]
    if value.dtype.kind == "U":
        return str(value[0]) if value.size else ""
    return value.item() if value.size == 1 else value.ravel(order="F").tolist()


@pytest.mark.parametrize("name", REAL)
def test_real_files_read_as_scipy_reads_them(name: str) -> None:
    file = shared(name)
    ours = mat.read(file)
    theirs = {key: plain(value) for key, value in scipy.io.loadmat(file).items() if not key.startswith("__")}
    assert ours == theirs


@pytest.mark.parametrize("compressed", [False, True])
def test_made_file_reads_as_scipy_reads_it(tmp_path: Path, compressed: bool) -> None:
    table = np.zeros((1, 2), [("text", object), ("long_number_name", object)])
    table[0, 0], table[0, 1] = ("Škoda", np.arange(6.0).reshape(2, 3)), ("ab", np.int64(-5))
    cells = np.array([["x", np.uint8(7)]], dtype=object)
    content = {"t": table, "c": cells, "n": np.array([[1.5, -2]]), "b": np.array([[True]]), "e": np.zeros((0, 0))}
    scipy.io.savemat(tmp_path / "a.mat", content, do_compression=compressed)
    ours = mat.read(tmp_path / "a.mat")
    assert ours == {key: plain(value) for key, value in scipy.io.loadmat(tmp_path / "a.mat").items() if key[0] != "_"}
    assert ours["t"]["text"] == ["Škoda", "ab"]
    assert ours["t"]["long_number_name"] == [[0, 3, 1, 4, 2, 5], -5]


@pytest.mark.parametrize("value", [np.array([[1j]]), scipy.sparse.eye(3, format="csc")])
def test_other_kinds_are_refused(tmp_path: Path, value: Any) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"x": value})
    with pytest.raises(ValueError, match=r"a\.mat: not readable as a MATLAB 5 file \(an array of class"):
        mat.read(tmp_path / "a.mat")


def test_compression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"x": np.zeros((1000, 100))}, do_compression=True)
    assert len(mat.read(tmp_path / "a.mat")["x"]) == 100_000
    monkeypatch.setattr(mat, "MAX_BYTES", 700_000)
    with pytest.raises(ValueError, match="larger than 700,000 bytes"):
        mat.read(tmp_path / "a.mat")


def test_endless_nesting_is_refused(tmp_path: Path) -> None:
    nested: Any = np.array([[1]])
    for _ in range(12):
        cell = np.empty((1, 1), dtype=object)
        cell[0, 0] = nested
        nested = cell
    scipy.io.savemat(tmp_path / "a.mat", {"x": nested})
    with pytest.raises(ValueError, match="nested more than 8 deep"):
        mat.read(tmp_path / "a.mat")


def test_damaged_files_never_raise_another_error(tmp_path: Path) -> None:
    table = np.zeros((1, 3), [("path", object), ("class", object)])
    for number in range(3):
        table[0, number] = (f"car_ims/{number}.jpg", np.uint8(number))
    scipy.io.savemat(tmp_path / "a.mat", {"annotations": table})
    data = (tmp_path / "a.mat").read_bytes()
    generator, refused = np.random.default_rng(0), 0
    for _ in range(3000):
        copy = bytearray(data)
        for _ in range(int(generator.integers(1, 4))):
            copy[generator.integers(len(copy))] = generator.integers(256)
        (tmp_path / "b.mat").write_bytes(copy)
        try:
            mat.read(tmp_path / "b.mat")
        except ValueError:
            refused += 1
    assert refused > 500


def test_damaged_compressed_data_is_noticed(tmp_path: Path) -> None:
    scipy.io.savemat(tmp_path / "a.mat", {"x": np.arange(500.0)}, do_compression=True)
    data = bytearray((tmp_path / "a.mat").read_bytes())
    data[-1] ^= 1  # the checksum of the compressed data
    (tmp_path / "a.mat").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.mat: not readable .*incorrect data check") as caught:
        mat.read(tmp_path / "a.mat")
    assert isinstance(caught.value.__cause__, zlib.error)

"""Files with a payload that would leave a mark: no stage runs it, and whoever unpickles them does."""

import contextlib
import io
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import tiny_pipeline as tiny
import yaml
from synthetic_sets import save_mat


class Call:
    """Unpickling this makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.mark,)


UPTO = "embed"  # the last stage that these tests need


def pickled_array(mark: Path) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Call(mark)], dtype=object), allow_pickle=True)
    return stream.getvalue()


def archived_array(mark: Path) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=True, images=np.array([Call(mark)], dtype=object))
    return stream.getvalue()


# The header of a .npy is Python's syntax.
def header_call(mark: Path) -> bytes:
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': (__import__('os').mkdir({str(mark)!r}),)}}"
    padded = text.ljust(63 + 64 * (len(text) // 64 + 1)) + "\n"
    return b"\x93NUMPY\x01\0" + len(padded).to_bytes(2, "little") + padded.encode() + bytes(99)


ARRAYS: dict[str, tuple[Callable[[Path], bytes], Callable[[bytes], object] | None]] = {
    "pickled array": (pickled_array, lambda data: np.load(io.BytesIO(data), allow_pickle=True)),
    "archive of arrays": (archived_array, lambda data: np.load(io.BytesIO(data), allow_pickle=True)["images"]),
    "bare pickle": (lambda mark: pickle.dumps(Call(mark)), pickle.loads),
    "header": (header_call, lambda data: eval(re.search(rb"\{.*\}", data)[0])),
}
FILES = {
    "data/processed/tiny/images.npy": "train",
    "embeddings/tiny/mobilenet_v2/test.npy": "evaluate",
    "embeddings/tiny/mobilenet_v2/train.npy": "evaluate",
}


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("name", FILES)
def test_arrays(project: Path, capsys: pytest.CaptureFixture[str], kind: str, name: str) -> None:
    mark, (make, run) = project / "mark", ARRAYS[kind]
    tiny.replace(project / name, make(mark))
    assert f"{name}: not a .npy array" in tiny.refused(tiny.STAGES[FILES[name]], capsys)
    assert not mark.exists()
    run((project / name).read_bytes())
    assert mark.exists()


YAML = {
    "apply": "x: !!python/object/apply:os.mkdir ['{mark}']\n",
    "as a key": "? !!python/object/apply:os.mkdir ['{mark}']\n: 1\n",
    "behind an alias": "x: &x !!python/object/apply:os.mkdir ['{mark}']\ny: *x\n",
}


@pytest.mark.parametrize("kind", YAML)
def test_yaml(project: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    mark = project / "mark"
    text = YAML[kind].format(mark=mark)
    tiny.replace(project / "params.yaml", text.encode())
    assert "params.yaml: not readable as YAML: " in tiny.refused(tiny.STAGES["preprocess"], capsys)
    assert not mark.exists()
    with contextlib.suppress(yaml.YAMLError):
        yaml.unsafe_load(text)
    assert mark.exists()


@pytest.mark.parametrize("kind", ["bare pickle", "pickle as text", "function handle", "object"])
def test_mat(project: Path, root: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """MATLAB's own ways to code: function handles and objects are kinds of arrays that are not read."""
    mark, file = project / "mark", project / "raw/tiny/cars_annos.mat"
    values = tiny.settings(root)
    values["variants"]["tiny"]["layout"] = "car"
    tiny.write_settings(project, values)
    save_mat(file, [("car_ims/1.jpg", 1, 1, 2, 2, 1)])
    if kind == "bare pickle":
        file.write_bytes(pickle.dumps(Call(mark)))
    elif kind == "pickle as text":
        scipy.io.savemat(file, {"annotations": pickle.dumps(Call(mark), protocol=0).decode()})
    else:
        scipy.io.savemat(file, {"annotations": np.array([[1.0, 2.0]])})
        data = bytearray(file.read_bytes())
        # The class of the array is a byte of its flags: 16 is a function handle, 3 an object.
        data[128 + 16] = 16 if kind == "function handle" else 3
        file.write_bytes(data)
    assert "raw/tiny/cars_annos.mat: " in tiny.refused(tiny.STAGES["preprocess"], capsys)
    assert not mark.exists()


def test_tables_and_json_are_data(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a careless reader would evaluate stays text."""
    mark = project / "mark"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    path = project / "data/meta_classes/tiny.csv"
    tiny.replace(
        path,
        path.read_bytes()
        .replace(b"\nant,0", f'\nant,"{code}"'.encode(), 1)
        .replace(b"\nant,1", f'\nant,"{code}"'.encode(), 1),
    )
    assert "as branch_0, expected a whole number" in tiny.refused(tiny.STAGES["train"], capsys)
    tiny.replace(project / "embeddings/tiny/mobilenet_v2/embedding.json", code.encode())
    assert "embedding.json: not JSON" in tiny.refused(tiny.STAGES["evaluate"], capsys)
    assert not mark.exists()

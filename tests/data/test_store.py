"""The packed store keeps every pixel and every fact, or is not there at all."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lrec.data import batches, store


def test_what_goes_in_comes_out(tmp_path: Path):
    generator = np.random.default_rng(0)
    pictures = generator.integers(0, 256, (600, 32, 32, 3), dtype=np.uint8)
    index = pd.DataFrame({"path": [f"{n}.jpg" for n in range(600)], "class": [f"c{n % 7}" for n in range(600)]})
    index["split"] = np.where(np.arange(600) % 7 < 4, "train", "test")
    store.pack(tmp_path / "s", [lambda n=n: pictures[n] for n in range(600)], index, 32, {"found": "here"}, workers=3)
    packed = store.open_store(tmp_path / "s")
    np.testing.assert_array_equal(packed.images, pictures)
    assert packed.index["path"].tolist() == index["path"].tolist()
    assert packed.dataset["found"] == "here"
    assert packed.train_classes() == ["c0", "c1", "c2", "c3"]
    np.testing.assert_array_equal(packed.rows("test"), np.flatnonzero(np.arange(600) % 7 >= 4))
    np.testing.assert_array_equal(packed.labels(np.arange(600)), np.arange(600) % 7)
    training = pictures[packed.rows("train")] / 255
    measured = packed.normalization("dataset")
    np.testing.assert_allclose(measured["mean"], training.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(measured["std"], training.std((0, 1, 2)), rtol=1e-12)


def test_other_normalizations(tiny_store: store.Store):
    assert tiny_store.normalization("imagenet") == store.IMAGENET
    values = {"mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 3.0]}
    assert tiny_store.normalization(values) == values


def test_training_classes_get_the_first_labels(tmp_path: Path):
    index = pd.DataFrame({"path": list("abcd"), "class": list("zyba"), "split": ["test", "test", "train", "train"]})
    store.pack(tmp_path / "s", [lambda: np.zeros((8, 8, 3), np.uint8)] * 4, index, 8, {})
    packed = store.open_store(tmp_path / "s")
    assert packed.labels(np.arange(4)).tolist() == [2, 3, 0, 1]
    assert packed.train_classes() == ["b", "a"]


def test_a_failed_picture_leaves_the_old_store(tmp_path: Path):
    index = pd.DataFrame({"path": ["a"], "class": ["c"], "split": ["train"]})
    store.pack(tmp_path / "s", [lambda: np.full((8, 8, 3), 7, np.uint8)], index, 8, {})

    def fail() -> np.ndarray:
        raise ValueError("a.jpg: unreadable")

    with pytest.raises(ValueError, match=r"a\.jpg: unreadable"):
        store.pack(tmp_path / "s", [fail], index, 8, {})
    assert (store.open_store(tmp_path / "s").images == 7).all()
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("images.npy", lambda data: data[:50], r"images\.npy: not a \.npy array"),
        ("images.npy", lambda data: data[:-1], r"images\.npy: not a \.npy array"),
        ("index.csv", lambda data: b"\n".join(data.split(b"\n")[:-2]) + b"\n", "found 45 images and 44 index rows"),
        ("index.csv", lambda data: data.replace(b"row,", b"raw,", 1), r"index\.csv: columns raw"),
        (
            "index.csv",
            lambda data: data.replace(b"\n0,", b"\nzero,", 1),
            r"index\.csv: line 2: found 'zero' as row, expected a whole",
        ),
        ("index.csv", lambda data: b"", r"index\.csv: columns none, expected row"),
        ("dataset.json", lambda data: data[:-5], r"dataset\.json: not JSON"),
    ],
)
def test_damaged_stores_are_refused(tiny_store: store.Store, tmp_path: Path, name: str, damage, message: str):
    path = tmp_path / "store" / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=message):
        store.open_store(tmp_path / "store")


def test_a_pickled_array_is_refused(tiny_store: store.Store, tmp_path: Path):
    np.save(tmp_path / "store/images.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"images\.npy: not a \.npy array"):
        store.open_store(tmp_path / "store")


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_come_in_order(tiny_store: store.Store, workers: int):
    selections = [np.array([3, 1]), np.array([2]), *(np.array([n, n]) for n in range(20))]
    loaded = list(batches.gather(tiny_store.images, selections, "cpu", workers))
    assert len(loaded) == len(selections)
    for rows, batch in zip(selections, loaded, strict=True):
        np.testing.assert_array_equal(batch.numpy(), tiny_store.images[rows])


def test_normalization_is_torchvisions(tiny_store: store.Store):
    from torchvision.transforms.v2.functional import normalize, to_dtype

    pixels = torch.from_numpy(tiny_store.images[:4].copy())
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.1]
    expected = normalize(to_dtype(pixels.permute(0, 3, 1, 2), torch.float32, scale=True), mean, std)
    found = batches.normalize(pixels, mean, std)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    flipped = batches.normalize(pixels, mean, std, torch.tensor([0, 2]))
    torch.testing.assert_close(flipped[0], expected[0].flip(2))
    torch.testing.assert_close(flipped[1], expected[1])

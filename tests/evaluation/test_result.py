"""Embeddings of real networks are evaluated over the right splits."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lrec.data import batches
from lrec.data.batches import Images
from lrec.data.store import Store
from lrec.embedding import extract
from lrec.evaluation import result, task
from lrec.model.ensemble import Ensemble


def test_extraction_is_the_models_embedding_whatever_the_batch(tiny_store: Store):
    ensemble = Ensemble("resnet18", 2, 5)
    rows = tiny_store.rows("test")
    normalization = tiny_store.normalization("imagenet")
    found = {}
    for size in (1, 4, 100):
        found[size] = np.empty((len(rows), 10), np.float32)
        images = Images(tiny_store.images, rows, **normalization)
        extract.extract(ensemble, images, found[size], extract.Options(batch_size=size))
    with torch.inference_mode():
        pixels = torch.from_numpy(tiny_store.images[rows])
        expected = ensemble.eval().embed(batches.normalize(pixels, **normalization)).numpy()
    for size, values in found.items():
        np.testing.assert_allclose(values, expected, atol=1e-5, err_msg=str(size))


def write(folder: Path, splits: list[str], values: list[list[float]], prefix: str = "") -> pd.DataFrame:
    """Write one embedding per row of each split; return an index with labels a, b, a, b, ..."""
    table = pd.DataFrame({"split": [split for split in splits for _ in values]})
    table["label"] = [number % 2 for _ in splits for number in range(len(values))]
    for split in splits:
        np.save(folder / f"{prefix}{split}.npy", np.array(values, np.float32))
    return table


VALUES = [[1, 0], [0, 1], [0.8, 0.6], [0.6, 0.8]]


def figures(folder: Path, index: pd.DataFrame, ks: list[int], prefix: str = "") -> dict | None:
    found = task.find(folder, index, prefix) if prefix else task.read(folder, index)
    return result.figures(found, found.evaluate(ks)) if found else None


def test_test_images_search_each_other(tmp_path: Path):
    found = figures(tmp_path, write(tmp_path, ["test"], VALUES), [1, 3])
    assert found["recall"] == {"1": 0.5, "3": 1.0}
    assert (found["queries"], found["gallery"], found["lone_queries"]) == (4, 3, 0)


def test_queries_search_the_gallery(tmp_path: Path):
    found = figures(tmp_path, write(tmp_path, ["query", "gallery"], VALUES), [1])
    assert found["recall"] == {"1": 1.0}
    assert (found["queries"], found["gallery"]) == (4, 4)


def test_a_metric_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    index = write(tmp_path, ["test"], VALUES)
    before = figures(tmp_path, index, [1, 3])
    assert list(before) == [
        "recall",
        "map_at_r",
        "r_precision",
        "mean_reciprocal_rank",
        "macro_recall_at_1",
        "recall_at_1_interval",
        "queries",
        "lone_queries",
        "gallery",
    ]
    median = result.Metric(lambda retrieval: float(np.median(retrieval.best_rank)), "Median rank")
    monkeypatch.setitem(result.METRICS, "median_rank", median)
    assert figures(tmp_path, index, [1, 3]) == before | {"median_rank": 1.5}
    assert result.titles() == {"map_at_r": "MAP@R", "r_precision": "R-precision", "median_rank": "Median rank"}


def test_untrained_embeddings_may_be_absent(tmp_path: Path):
    index = write(tmp_path, ["test"], VALUES)
    assert figures(tmp_path, index, [1], "untrained_") is None
    write(tmp_path, ["test"], VALUES, "untrained_")
    assert figures(tmp_path, index, [1], "untrained_") == figures(tmp_path, index, [1])


def test_embeddings_of_another_store_are_refused(tmp_path: Path):
    index = write(tmp_path, ["test"], VALUES)
    with pytest.raises(ValueError, match=r"test\.npy: found 4 rows, expected 3 as in the index; embed again"):
        figures(tmp_path, index.iloc[:3], [1])
    with pytest.raises(FileNotFoundError, match=r"query\.npy: not found; run `dvc repro` \(stage embed\) first"):
        figures(tmp_path, index.assign(split="query"), [1])

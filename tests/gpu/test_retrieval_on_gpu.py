"""Extraction, recall, search and validation on a device that has CUDA's rules: the CPU's numbers, few waits."""

import checked_device
import numpy as np
import pytest
import torch

from lrec.data.batches import Images
from lrec.data.store import Store
from lrec.embedding import batch_norm, extract
from lrec.embedding.extract import Options
from lrec.evaluation.nearest import nearest
from lrec.evaluation.task import Task
from lrec.metrics import blocks, counting, search, similarity
from lrec.metrics.recall import MEMORY_BYTES, evaluate, recall_at_k
from lrec.model.ensemble import Ensemble
from lrec.training.validation import recall_at_1

GPU = checked_device.NAME


def classes(count: int, size: int, width: int, noise: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Rows of unit norm around the centre of their class, `size` rows each."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) // size
    rows = generator.normal(size=(labels[-1] + 1, width))[labels] + noise * generator.normal(size=(count, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def require_same(found, expected) -> None:
    np.testing.assert_array_equal(found.best_rank, expected.best_rank)
    for name in set(vars(expected)) - {"best_rank"}:
        assert getattr(found, name) == getattr(expected, name), name


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("memory", [None, 20_000], ids=["free memory", "low memory"])
@pytest.mark.parametrize("doubt", [0, 10], ids=["decided", "all in doubt"])
def test_recall_is_the_cpus(gpu: checked_device.Log, monkeypatch: pytest.MonkeyPatch, dtype, memory, doubt):
    true = counting.BestThresholds.unset

    def widened(*arguments):
        best = true(*arguments)
        best.float32_margin.add_(doubt)
        return best

    monkeypatch.setattr(counting.BestThresholds, "unset", widened)
    rows, labels = classes(60 if doubt else 120, 4, 8)  # of those in doubt, each pair is compared again
    rows[::7] = rows[0]
    rows = rows.astype(dtype)
    cut = len(rows) // 3
    split = (rows[:cut], labels[:cut], [1, 5], rows[cut:], labels[cut:] - labels[cut] + 1)
    for arguments in ((rows, labels, [1, 5]), split):
        require_same(evaluate(*arguments, device=GPU, memory_bytes=memory), evaluate(*arguments))
        if memory is None and doubt == 0:
            data = torch.from_numpy(rows).to(GPU)
            require_same(evaluate(data, *arguments[1:], device=GPU), evaluate(rows, *arguments[1:]))
            break


def test_rows_keep_their_dtype_on_the_device(gpu: checked_device.Log):
    data, order = np.ones((6, 4), np.float16), np.arange(6)
    on_gpu = similarity.Rows(data, order, "query", torch.device(GPU), 6 * 4 * 2)
    assert on_gpu.kept_bytes == 6 * 4 * 2
    assert similarity.Rows(data, order, "query", torch.device(GPU), 6 * 4 * 2 - 1).kept_bytes == 0
    assert similarity.Rows(data, order, "query", torch.device("cpu"), 6 * 4 * 4).kept_bytes == 6 * 4 * 4


def test_a_value_that_is_not_finite_is_named(gpu: checked_device.Log):
    rows, labels = classes(20, 4, 8)
    rows[13, 2] = np.nan
    with pytest.raises(ValueError, match="query: found a value that is not finite in row 13"):
        recall_at_k(rows, labels, [1], device=GPU)


def test_recall_uses_free_memory(gpu: checked_device.Log, monkeypatch: pytest.MonkeyPatch):
    module = torch.get_device_module(GPU)
    asked = []
    true = blocks.block_size
    monkeypatch.setattr("lrec.metrics.ranking.block_size", lambda _, memory: asked.append(memory) or true(1, memory))
    rows, labels = classes(40, 4, 8)
    for free in (2**30, 2**32):
        monkeypatch.setattr(module, "mem_get_info", lambda *_, free=free: (free, 2**34))
        recall_at_k(rows, labels, [1], device=GPU)
    assert asked == [2**29 - rows.nbytes, 2**31 - rows.nbytes]
    recall_at_k(rows, labels, [1])
    assert asked[2] <= MEMORY_BYTES


@pytest.mark.parametrize("precision", [False, True])
def test_recall_waits_seldom(gpu: checked_device.Log, monkeypatch: pytest.MonkeyPatch, precision: bool):
    monkeypatch.setattr(torch.get_device_module(GPU), "mem_get_info", lambda *_: (2**33, 2**34))
    rows, labels = classes(9000, 5, 16)
    found = evaluate(rows, labels, [1], device=GPU, precision=precision)
    waits = gpu.total
    require_same(found, evaluate(rows, labels, [1], precision=precision))
    assert waits <= 40, gpu.waits


@pytest.mark.parametrize("k", [1, 7])
def test_search_and_nearest_are_the_cpus(gpu: checked_device.Log, k: int):
    rows, labels = classes(90, 3, 8)
    rows[::7] = rows[0]
    exclude = np.arange(30)
    for some in ([rows], [rows[:50].astype(np.float16), rows[50:].astype(np.float16)]):
        found = search.top(rows[:30], some, k, exclude, device=GPU)
        for one, other in zip(found, search.top(rows[:30], some, k, exclude), strict=True):
            np.testing.assert_array_equal(one, other)
    task = Task(rows, labels)
    np.testing.assert_array_equal(nearest(task, device=GPU), nearest(task))


def test_validation_is_the_cpus_and_waits_once(gpu: checked_device.Log):
    rows, labels = (torch.from_numpy(part) for part in classes(3000, 5, 8))
    on_gpu = rows.to(GPU), labels.to(GPU)
    gpu.clear()
    assert recall_at_1(*on_gpu) == recall_at_1(rows, labels)
    assert gpu.total == 1


@pytest.mark.parametrize("workers", [0, 2])
def test_embeddings_are_the_cpus_and_a_batch_waits_once(tiny_store: Store, gpu: checked_device.Log, workers: int):
    images = Images(tiny_store.images, tiny_store.rows("test"), **tiny_store.normalization("dataset"))
    model = batch_norm.fold(Ensemble("mobilenet_v2", 2, 3))
    found = {name: np.zeros((len(images), 6), np.float32) for name in ("cpu", GPU)}
    for name, out in found.items():
        extract.extract(model, images, out, Options(batch_size=4, device=name, workers=workers))
    np.testing.assert_array_equal(found[GPU], found["cpu"])
    gpu.clear()
    extract.extract(model, images, found[GPU], Options(batch_size=4, device=GPU))
    once = 2  # scale and shift, if no extraction before has sent them
    assert gpu.total <= len(range(0, len(images), 4)) + once, gpu.waits
    assert {reason for reason, _ in gpu.waits} <= {"event", "copy from pageable memory"}

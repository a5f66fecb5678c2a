"""Retrieval metrics against hand-worked cases, a brute-force float64 twin and pytorch-metric-learning."""

import doctest

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recall_twin import MEMORY, check, classes, embeddings, labels

from lrec.metrics import recall
from lrec.metrics.recall import evaluate, interval, recall_at_k

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


@QUICK
@given(st.data())
def test_leave_one_out_equals_the_twin(data):
    query = data.draw(embeddings())
    check(query, labels(data.draw, len(query)), memory_bytes=data.draw(MEMORY))


@QUICK
@given(st.data())
def test_query_and_gallery_equal_the_twin(data):
    query = data.draw(embeddings())
    gallery = data.draw(embeddings(width=query.shape[1]))
    names = labels(data.draw, len(query)), labels(data.draw, len(gallery))
    check(query, names[0], gallery, names[1], memory_bytes=data.draw(MEMORY))


def test_leaves_out_the_query_by_its_index():
    query = np.array([[1, 0], [1, 0], [0, 1], [0, 1]])
    assert recall_at_k(query.astype(float), ["a", "b", "b", "a"], [1, 2]) == {1: 0.0, 2: 0.0}
    assert recall_at_k(query.astype(float), ["a", "a", "b", "b"], [1]) == {1: 1.0}


def test_hand_worked_query_and_gallery():
    query = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    gallery = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.9]])
    found = evaluate(query, [1, 2, 3], [1, 2, 9], gallery, [1, 2, 1, 2])
    # Query 1: positives ranked 1 and 3; query 2: ranked 1 (item 3) and 3; query 3: without positives.
    assert found.recall == {1: 2 / 3, 2: 2 / 3, 9: 2 / 3}
    assert found.lone_queries == 1
    np.testing.assert_array_equal(found.best_rank, [1, 1, 0])
    assert found.best_rank.dtype == np.int64
    assert found.map_at_r == pytest.approx((1 / 2 + 1 / 2) / 3)
    assert found.r_precision == pytest.approx((1 / 2 + 1 / 2) / 3)
    assert found.mean_reciprocal_rank == pytest.approx(2 / 3)
    assert found.macro_recall_at_1 == pytest.approx(2 / 3)


def test_macro_average_weighs_classes_equally():
    query = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    found = evaluate(query, ["a", "a", "a", "b", "b"], [1], precision=False)
    assert found.recall[1] == 3 / 5
    assert found.macro_recall_at_1 == 1 / 2
    assert found.map_at_r is None
    assert found.r_precision is None


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_collapsed_embedding_scores_nothing(value):
    code = np.arange(1500) % 300
    found = evaluate(np.full((1500, 64), value, np.float32), code, [1, 1495, 1496])
    assert found.recall == {1: 0.0, 1495: 0.0, 1496: 1.0}
    assert found.map_at_r == 0.0


def test_nearly_collapsed_embedding_is_ranked_exactly():
    query = (1 + 1e-7 * np.random.default_rng(0).standard_normal((300, 8))).astype(np.float32)
    check(query, np.arange(300) % 60, memory_bytes=100_000)


def test_many_zero_rows():
    query, code = classes(200, 4, 8, 0.5)
    query[::2] = 0
    check(query, code, memory_bytes=100_000)


@pytest.mark.parametrize("size", [1e-30, 1e30, 1e-200, 1e200])
def test_length_of_the_vectors_does_not_matter(size):
    query, code = classes(200, 4, 8, 1.0)
    expected = evaluate(query, code, [1]).best_rank
    np.testing.assert_array_equal(evaluate(query.astype(np.float64) * size, code, [1]).best_rank, expected)


def test_memory_map_of_float16(tmp_path):
    query, code = classes(500, 5, 2100, 3.0)
    np.save(tmp_path / "x.npy", query.astype(np.float16))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    check(mapped[:60], code[:60], memory_bytes=1_000_000)
    expected = evaluate(query.astype(np.float16).astype(np.float64), code, [1])
    found = evaluate(mapped, code, [1], memory_bytes=2_000_000)
    np.testing.assert_array_equal(found.best_rank, expected.best_rank)
    assert found.map_at_r == expected.map_at_r


@pytest.mark.parametrize("noise", [1.0, 2.0])
def test_equals_pytorch_metric_learning(noise):
    pytest.importorskip("faiss")
    calculators = pytest.importorskip("pytorch_metric_learning.utils.accuracy_calculator")
    query, code = classes(1500, 6, 32, noise)
    gallery, other = classes(1500, 6, 32, noise, seed=0)
    gallery = np.roll(gallery, 1, axis=1) * 0.3 + gallery
    gallery = (gallery / np.linalg.norm(gallery, axis=1, keepdims=True)).astype(np.float32)
    names = ("precision_at_1", "mean_average_precision_at_r", "r_precision")
    peer = calculators.AccuracyCalculator(include=names, k="max_bin_count", device=torch.device("cpu"))
    for more in ((), (gallery, other)):
        # Every query has positives, so that counting queries without positives as 0 or leaving them out is the same.
        expected = peer.get_accuracy(query, code, *more)
        found = evaluate(query, code, [1], *more)
        assert found.lone_queries == 0
        assert found.recall[1] == pytest.approx(expected["precision_at_1"], abs=1e-12)
        assert found.map_at_r == pytest.approx(expected["mean_average_precision_at_r"], abs=1e-12)
        assert found.r_precision == pytest.approx(expected["r_precision"], abs=1e-12)


def test_interval():
    hits, code = np.array([True] * 50 + [False] * 50), np.repeat(np.arange(20), 5)
    low, high = interval(hits, code)
    # Half of 20 classes are hit: the number of hit classes drawn is binomial, 2.5% at 6/20, 97.5% at 14/20.
    assert (low, high) == pytest.approx((0.3, 0.7), abs=0.051)
    assert interval(hits, code) == (low, high)
    assert interval(np.ones(100, bool), code) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": np.zeros((0, 2)), "query_labels": []}, "query: found no rows"),
        ({"query": np.zeros(4)}, r"query: found float64 of shape \(4,\)"),
        ({"query": np.zeros((4, 2), int)}, "query: found int64"),
        ({"query_labels": [1, 2]}, "query_labels: found 2 labels, expected 4"),
        ({"query_labels": [1, 2, 3, 4, 5]}, "query_labels: found 5 labels, expected 4"),
        ({"query_labels": [[1], [2], [3], [4]]}, "query_labels: found a label that is not hashable"),
        ({"ks": []}, r"ks: found \[\], expected cutoffs of at least 1"),
        ({"ks": [1, 0]}, r"ks: found \[1, 0\], expected cutoffs of at least 1"),
        ({"gallery": np.ones((2, 2))}, "gallery and gallery_labels: found one of them"),
        ({"gallery_labels": [1, 2]}, "gallery and gallery_labels: found one of them"),
        ({"gallery": np.ones((2, 3)), "gallery_labels": [1, 2]}, "gallery: found 3 dimensions, expected 2"),
        ({"gallery": np.ones((2, 1)), "gallery_labels": [1, 2]}, "gallery: found 1 dimensions, expected 2"),
        ({"gallery": np.ones((2, 2)), "gallery_labels": [1]}, "gallery_labels: found 1 labels, expected 2"),
        ({"query": np.array([[1, 0], [0, 1], [np.nan, 1], [np.inf, 0]])}, "query: found a value .* in row 2"),
    ],
)
def test_errors_say_what_was_found_and_expected(change, message):
    arguments = {"query": np.ones((4, 2)), "query_labels": ["d", "c", "b", "a"], "ks": [1]} | change
    with pytest.raises(ValueError, match=message):
        evaluate(**arguments)


def test_examples_in_the_docs():
    result = doctest.testmod(recall)
    assert result.attempted == 2
    assert result.failed == 0

"""Retrieval metrics against hand-worked cases, a brute-force float64 twin and pytorch-metric-learning."""

import doctest
import math
import threading
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrec import blocks, counting, ranking, recall, similarity
from lrec.recall import evaluate, interval, recall_at_k

QUICK = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


def twin(query, query_labels, gallery=None, gallery_labels=None):
    """Rank by brute force: best rank, average precision and R-precision of every query."""
    alone = gallery is None
    gallery, gallery_labels = (query, query_labels) if alone else (gallery, gallery_labels)
    query, gallery = np.asarray(query, np.float64), np.asarray(gallery, np.float64)
    width = query.shape[1]
    longest = np.linalg.norm(gallery, axis=1).max()
    rows = []
    for i, vector in enumerate(query):
        value = [math.fsum(vector * item) for item in gallery]
        margin = 4 * (width + 9) * 2.0**-52 * np.linalg.norm(vector) * longest
        mine = [j for j, label in enumerate(gallery_labels) if label == query_labels[i] and not (alone and i == j)]
        others = [value[j] for j, label in enumerate(gallery_labels) if label != query_labels[i]]
        positives = sorted((value[j] for j in mine), reverse=True)
        ranks = [j + sum(other >= x - margin for other in others) for j, x in enumerate(positives, 1)]
        precisions = [j / rank for j, rank in enumerate(ranks, 1) if rank <= len(ranks)]
        size = max(1, len(ranks))
        rows.append((ranks[0] if ranks else 0, sum(precisions) / size, len(precisions) / size))
    return np.array(rows)


def check(query, query_labels, gallery=None, gallery_labels=None, **options):
    ks = [1, 2, 3, 7, 10_000]
    expected = twin(query, query_labels, gallery, gallery_labels)
    found = evaluate(query, query_labels, ks, gallery, gallery_labels, **options)
    np.testing.assert_array_equal(found.best_rank, expected[:, 0])
    best = expected[:, 0]
    assert found.recall == {k: np.mean((best > 0) & (best <= k)) for k in ks}
    assert found.recall == recall_at_k(query, query_labels, ks, gallery, gallery_labels, **options)
    assert found.lone_queries == (best == 0).sum()
    assert found.mean_reciprocal_rank == pytest.approx(np.mean([1 / x if x else 0 for x in best]), abs=1e-12)
    assert found.map_at_r == pytest.approx(expected[:, 1].mean(), abs=1e-12)
    assert found.r_precision == pytest.approx(expected[:, 2].mean(), abs=1e-12)


@st.composite
def embeddings(draw, width=None, least=1):
    """Draw rows with many exact duplicates, ties, zero rows and near-duplicates, as any dtype and layout."""
    rows = draw(st.integers(least, 24))
    width = width or draw(st.integers(1, 5))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["whole", "normal", "copies", "close"]))
    data = generator.standard_normal((rows, width))
    if kind == "whole":
        data = generator.integers(-1, 2, (rows, width)).astype(float)
    elif kind != "normal":
        data = data[generator.integers(rows, size=rows) // 4]
        data += (kind == "close") * 1e-8 * generator.standard_normal((rows, width))
    data = data.astype(draw(st.sampled_from([np.float16, np.float32, np.float64])))
    layout = draw(st.sampled_from(["plain", "column-major", "reversed", "tensor", "strided tensor"]))
    if layout == "column-major":
        return np.asfortranarray(data)
    if layout == "reversed":
        return data[::-1, ::-1]
    if layout == "tensor":
        return torch.from_numpy(data)
    return torch.from_numpy(data).T.clone().T if layout == "strided tensor" else data


def labels(draw, rows):
    """Draw labels for some rows: whole numbers, text, or a mixture as an array of objects."""
    names = draw(st.sampled_from([[0, 1, 2, 3, 4], ["b", "a", "é"], [0, "a", (1, 2), None], [7]]))
    chosen = draw(st.lists(st.sampled_from(names), min_size=rows, max_size=rows))
    if not draw(st.booleans()):
        return chosen
    array = np.empty(rows, object)
    array[:] = chosen
    return array


MEMORY = st.sampled_from([1, 3_000, 2**28])


@QUICK
@given(st.data())
def test_self_retrieval_equals_the_twin(data):
    query = data.draw(embeddings())
    check(query, labels(data.draw, len(query)), memory_bytes=data.draw(MEMORY))


@QUICK
@given(st.data())
def test_query_and_gallery_equal_the_twin(data):
    query = data.draw(embeddings())
    gallery = data.draw(embeddings(width=query.shape[1]))
    names = labels(data.draw, len(query)), labels(data.draw, len(gallery))
    check(query, names[0], gallery, names[1], memory_bytes=data.draw(MEMORY))


def classes(images, size, width, noise, seed=0):
    """Make unit vectors around random class centres, in random order."""
    generator = np.random.default_rng(seed)
    code = generator.permutation(np.arange(images) // size)
    data = generator.standard_normal((images, width))[code] + noise * generator.standard_normal((images, width))
    return (data / np.linalg.norm(data, axis=1, keepdims=True)).astype(np.float32), code


@pytest.fixture
def share_small_blocks(monkeypatch):
    """A function that lets three threads share even small blocks and returns the names of those that do."""
    before = torch.get_num_threads()

    def start():
        seen = set()
        add = counting.Counter.add
        torch.set_num_threads(3)
        monkeypatch.setattr(ranking, "_SIDE", 16)
        monkeypatch.setattr(counting.Counter, "add", lambda *x: (seen.add(threading.current_thread().name), add(*x)))
        return seen

    yield start
    torch.set_num_threads(before)


def widen(monkeypatch, blur, slack):
    """Put more similarities in doubt."""
    true = counting.Limits.unset

    def widened(*arguments):
        limits = true(*arguments)
        limits.blur.add_(blur)
        limits.slack.add_(slack)
        return limits

    monkeypatch.setattr(counting.Limits, "unset", widened)


@pytest.mark.parametrize(("blur", "slack", "dense"), [(0, 0, 1 / 64), (10, 0, 2), (10, 0, 0), (20, 10, 2), (20, 10, 0)])
@pytest.mark.parametrize("size", [3, 40])
def test_every_path_to_exactness_equals_the_twin(monkeypatch, share_small_blocks, blur, slack, dense, size):
    # A blur of 10 puts every similarity in doubt after float32, a slack of 10 after float64 as well.
    widen(monkeypatch, blur, slack)
    monkeypatch.setattr(counting, "_DENSE", dense)
    query, code = classes(80, size, 8, 1.0)
    query[::7] = query[0]
    for memory in (3_000, 2**28):
        check(query, code, memory_bytes=memory)
        check(query[:30], code[:30], query[30:], code[30:], memory_bytes=memory)
    seen = share_small_blocks()
    check(query, code)
    check(query[:30], code[:30], query[30:], code[30:])
    assert len(seen) > 2


def test_doubt_about_a_lower_positive_alone_is_settled_by_definition(monkeypatch):
    asked = []
    settle = ranking.Pass._rank_by_definition
    widen(monkeypatch, 0.05, 0.05)
    monkeypatch.setattr(ranking.Pass, "_rank_by_definition", lambda *x: (asked.append(x[1]), settle(*x)))
    gallery = np.array([[0.9, 0.0], [0.5, 0.0], [0.5, 0.1]])
    found = evaluate(np.array([[1.0, 0.0]]), ["a"], [1], gallery, ["a", "a", "b"])
    assert asked == [0]
    assert found.map_at_r == found.r_precision == 1 / 2


def test_leaves_out_the_query_by_its_index():
    query = np.array([[1, 0], [1, 0], [0, 1], [0, 1]])
    assert recall_at_k(query.astype(float), ["a", "b", "b", "a"], [1, 2]) == {1: 0.0, 2: 0.0}
    assert recall_at_k(query.astype(float), ["a", "a", "b", "b"], [1]) == {1: 1.0}


def test_hand_worked_query_and_gallery():
    query = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    gallery = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.9]])
    found = evaluate(query, [1, 2, 3], [1, 2, 9], gallery, [1, 2, 1, 2])
    # Query 1: positives ranked 1 and 3; query 2: ranked 1 (item 3) and 3; query 3: lone.
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


def test_result_does_not_depend_on_blocks_order_or_threads():
    query, code = classes(1500, 5, 64, 2.0)
    query[::9] = query[0]
    base = evaluate(query, code, [1, 10])
    order = np.random.default_rng(1).permutation(len(code))
    threads = torch.get_num_threads()
    try:
        for memory, count in ((200_000, 1), (1_000_000, 2), (2**29, 1), (2**29, 4)):
            torch.set_num_threads(count)
            other = evaluate(query[order], code[order].astype(str), [1, 10], memory_bytes=memory)
            np.testing.assert_array_equal(other.best_rank, base.best_rank[order])
            for name in set(vars(base)) - {"best_rank"}:
                assert getattr(other, name) == getattr(base, name), name
    finally:
        torch.set_num_threads(threads)


def test_float32_settings_of_the_caller_are_set_aside_and_restored():
    query, code = classes(400, 4, 64, 2.0)
    expected = evaluate(query, code, [1]).best_rank
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            np.testing.assert_array_equal(evaluate(query, code, [1]).best_rank, expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


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
        # No query is lone here, so that counting lone queries as 0 or leaving them out is the same.
        expected = peer.get_accuracy(query, code, *more)
        found = evaluate(query, code, [1], *more)
        assert found.lone_queries == 0
        assert found.recall[1] == pytest.approx(expected["precision_at_1"], abs=1e-12)
        assert found.map_at_r == pytest.approx(expected["mean_average_precision_at_r"], abs=1e-12)
        assert found.r_precision == pytest.approx(expected["r_precision"], abs=1e-12)


def test_interval():
    hits, code = np.array([True] * 50 + [False] * 50), np.repeat(np.arange(20), 5)
    low, high = interval(hits, code, seed=0)
    # Half of 20 classes are hit: the share of hit classes drawn is binomial, 2.5% at 6/20, 97.5% at 14/20.
    assert (low, high) == pytest.approx((0.3, 0.7), abs=0.051)
    assert interval(hits, code, seed=0) == (low, high)
    assert interval(np.ones(100, bool), code, seed=0) == (1.0, 1.0)


def test_blocks_cover_every_pair_once_and_fit_in_memory():
    size = blocks.block_size(64, 3_000_000)
    assert 8 * 64 < size * size
    assert 12 * size * size + 12 * size * 64 <= 3_000_000 < 12 * (size + 8) ** 2 + 12 * (size + 8) * 64
    seen = np.zeros((2500, 2500), int)
    for rows, columns in blocks.triangle(0, 2500, size):
        assert rows.stop - rows.start <= size
        assert columns.stop - columns.start <= size
        seen[rows, columns] += 1
        if rows != columns:
            seen[columns, rows] += 1
    assert (seen == 1).all()
    seen = np.zeros((700, 1100), int)
    for rows, columns in blocks.rectangle(slice(0, 700), slice(0, 1100), size):
        assert rows.stop - rows.start <= size
        assert columns.stop - columns.start <= size
        seen[rows, columns] += 1
    assert (seen == 1).all()


def test_no_block_exceeds_the_memory_bound(monkeypatch, share_small_blocks):
    sizes = []
    true = similarity.products

    def watched(a, b):
        sizes.append(4 * (len(a) * len(b) + (len(a) + len(b)) * a.shape[1]))
        return true(a, b)

    for module in (counting, similarity):
        monkeypatch.setattr(module, "products", watched)
    query, code = classes(1000, 250, 32, 1.0)
    evaluate(query, code, [1], memory_bytes=500_000)
    assert len(sizes) > 20
    assert max(sizes) <= 500_000
    sizes.clear()
    seen = share_small_blocks()
    evaluate(query[:300], code[:300], [1], memory_bytes=500_000)
    assert len(seen) > 1
    assert max(sizes) <= 500_000 // 3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 8), (300, 2100), (600, 37)])
def test_at_least_counts_lines(height, width):
    block = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (height, width)).astype(np.float32))
    for axis, length in enumerate((height, width)):
        limits = torch.arange(length).double() % 5
        expected = (block >= limits.unsqueeze(1 - axis)).sum(1 - axis)
        assert torch.equal(blocks.at_least(block, limits, axis), expected)
        assert torch.equal(
            blocks.at_least(block, torch.zeros(length), axis), torch.full((length,), block.shape[1 - axis])
        )


@pytest.mark.parametrize("width", [1, 7, 576, 3000])
def test_rounding_bounds_the_error_of_products(width):
    a = torch.from_numpy(np.random.default_rng(0).standard_normal((6, width)))
    pairs = [
        [sum(Fraction(x) * Fraction(y) for x, y in zip(p, q, strict=True)) for q in a.tolist()] for p in a.tolist()
    ]
    exact = torch.tensor([[float(x) for x in row] for row in pairs], dtype=torch.float64)
    lengths = a.norm(dim=1)[:, None] * a.norm(dim=1)
    for kind in (torch.float32, torch.float64):
        error = similarity.products(a.to(kind), a.to(kind)).double() - exact
        bound = similarity.rounding(width, kind, lengths)
        assert (error.abs() <= bound).all()
        assert bound.max() <= (width + 10) * torch.finfo(kind).eps * lengths.max()
    ordered = similarity.ordered_products(a, a.flip(0))
    assert torch.equal(ordered, similarity.ordered_products(a.flip(0), a).clone())
    assert (ordered - exact.flip(1).diagonal()).abs().max() <= similarity.rounding(width, kind, lengths).max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": np.zeros((0, 2)), "query_labels": []}, "query: found no rows"),
        ({"query": np.zeros(4)}, r"query: found float64 of shape \(4,\)"),
        ({"query": np.zeros((4, 2), int)}, "query: found int64"),
        ({"query_labels": [1, 2]}, "query_labels: found 2 labels, expected 4"),
        ({"query_labels": [[1], [2], [3], [4]]}, "query_labels: found a label that is not hashable"),
        ({"ks": []}, r"ks: found \[\], expected cutoffs of at least 1"),
        ({"ks": [1, 0]}, r"ks: found \[1, 0\], expected cutoffs of at least 1"),
        ({"gallery": np.ones((2, 2))}, "gallery and gallery_labels: found one of them"),
        ({"gallery": np.ones((2, 3)), "gallery_labels": [1, 2]}, "gallery: found 3 dimensions, expected 2"),
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

"""Counting for recall: every path to exactness, blocks divided among threads, memory and error bounds."""

import threading
from fractions import Fraction

import numpy as np
import pytest
import torch
from recall_twin import check, classes

from lrec.metrics import blocks, counting, ranking, similarity
from lrec.metrics.recall import evaluate


@pytest.fixture
def divide_small_blocks(monkeypatch):
    """A function that divides even small blocks among three threads and returns the names of those that count."""
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


def widen(monkeypatch, float32_margin, float64_margin):
    """Put more similarities in doubt."""
    true = counting.BestThresholds.unset

    def widened(*arguments):
        best = true(*arguments)
        best.float32_margin.add_(float32_margin)
        best.float64_margin.add_(float64_margin)
        return best

    monkeypatch.setattr(counting.BestThresholds, "unset", widened)


@pytest.mark.parametrize(
    ("float32_margin", "float64_margin", "dense"),
    [(0, 0, 1 / 64), (10, 0, 2), (10, 0, 0), (20, 10, 2), (20, 10, 0)],
)
@pytest.mark.parametrize("size", [3, 40])
def test_every_path_to_exactness_equals_the_twin(
    monkeypatch, divide_small_blocks, float32_margin, float64_margin, dense, size
):
    # A margin of 10 puts every similarity in doubt: after float32, or after float64 as well.
    widen(monkeypatch, float32_margin, float64_margin)
    monkeypatch.setattr(counting, "_DENSE", dense)
    query, code = classes(80, size, 8, 1.0)
    query[::7] = query[0]
    for memory in (3_000, 2**28):
        check(query, code, memory_bytes=memory)
        check(query[:30], code[:30], query[30:], code[30:], memory_bytes=memory)
    seen = divide_small_blocks()
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


@pytest.fixture
def switches():
    """The switches of float32 products, each for one backend and the one for all; put back in the end."""
    backends = torch.backends
    some = {"cuda": backends.cuda.matmul, "cpu": backends.mkldnn.matmul, "all": backends}
    yield some
    for switch in some.values():
        switch.fp32_precision = "none"


@pytest.mark.parametrize(
    ("name", "precision"), [("cuda", "tf32"), ("cuda", "ieee"), ("cpu", "bf16"), ("cpu", "tf32"), ("all", "tf32")]
)
def test_precisions_set_per_backend_are_set_aside_and_restored(monkeypatch, switches, name, precision):
    query, code = classes(400, 4, 64, 2.0)
    expected = evaluate(query, code, [1]).best_rank
    switches[name].fp32_precision = precision
    before = {key: switch.fp32_precision for key, switch in switches.items()}
    during = []
    true = similarity.products

    def watched(a, b):
        during.append((switches["cuda"].fp32_precision, switches["cpu"].fp32_precision))
        return true(a, b)

    for module in (counting, similarity):
        monkeypatch.setattr(module, "products", watched)
    np.testing.assert_array_equal(evaluate(query, code, [1]).best_rank, expected)
    assert set(during) == {("ieee", "ieee")}
    assert {key: switch.fp32_precision for key, switch in switches.items()} == before
    if name == "all":  # what a backend inherited is not pinned
        switches["all"].fp32_precision = "none"
        assert switches["cuda"].fp32_precision == switches["cpu"].fp32_precision == "none"


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


def test_no_block_exceeds_the_memory_bound(monkeypatch, divide_small_blocks):
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
    seen = divide_small_blocks()
    evaluate(query[:300], code[:300], [1], memory_bytes=500_000)
    assert len(seen) > 1
    assert max(sizes) <= 500_000 // 3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 8), (300, 2100), (600, 37)])
def test_at_least_counts_lines(height, width):
    tile = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (height, width)).astype(np.float32))
    for axis, length in enumerate((height, width)):
        least = torch.arange(length).double() % 5
        expected = (tile >= least.unsqueeze(1 - axis)).sum(1 - axis)
        assert torch.equal(counting.at_least(tile, least, axis), expected)
        everything = torch.full((length,), tile.shape[1 - axis])
        assert torch.equal(counting.at_least(tile, torch.zeros(length), axis), everything)


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


@pytest.mark.parametrize(("apart", "sides"), [(False, 1), (True, 2)])
def test_copies_of_the_embeddings_take_their_part_of_the_memory(monkeypatch, apart, sides):
    """Half of the memory is for copies, of one side or of both; blocks get what they leave."""
    left = []
    true = ranking.rank
    monkeypatch.setattr(ranking, "rank", lambda *x: left.append(x[4]) or true(*x))
    query, code = classes(100, 5, 300, 1.0)
    arguments = (query, code, [1], query, code) if apart else (query, code, [1])
    evaluate(*arguments, memory_bytes=2 * sides * query.nbytes)
    evaluate(*arguments, memory_bytes=2 * sides * query.nbytes - 1)
    assert left == [sides * query.nbytes, 2 * sides * query.nbytes - 1]

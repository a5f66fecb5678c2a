"""Exact search against sorting the whole matrix, with ties, exclusions, several arrays and small memory."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lrec.metrics import search, similarity
from lrec.metrics.similarity import rounding


def brute(queries: np.ndarray, gallery: np.ndarray, k: int, exclude: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    similar = queries @ gallery.T
    for query, row in enumerate(exclude):
        if row != search.NO_ROW:
            similar[query, row] = -np.inf
    rows = np.argsort(-similar, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similar, rows, 1), rows


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 2500), st.data())
def test_same_as_sorting_everything(seed: int, count: int, size: int, data: st.DataObject):
    generator = np.random.default_rng(seed)
    # Small whole numbers: products are exact in float32, and many are equal.
    gallery = generator.integers(-2, 3, (size, 3)).astype(np.float32)
    queries = generator.integers(-2, 3, (count, 3)).astype(np.float32)
    exclude = generator.integers(-1, size, count)
    k = data.draw(st.integers(1, size - 1))
    cut = data.draw(st.integers(0, size))
    found = search.top(queries, [gallery[:cut], gallery[cut:].astype(np.float16)], k, exclude, memory_bytes=1)
    for ours, theirs in zip(found, brute(queries, gallery, k, exclude), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_by_hand():
    gallery = np.array([[1, 0], [0, 1], [1, 0], [0.6, 0.8]], dtype=np.float32)
    scores, rows = search.top(np.array([[1, 0]]), [gallery], 3, np.array([0]))
    assert rows.tolist() == [[2, 3, 1]]
    np.testing.assert_allclose(scores, [[1, 0.6, 0]], rtol=1e-6)
    assert scores.dtype == np.float32
    assert rows.dtype == np.int64


@pytest.mark.parametrize("width", [3, 576, 2100])
def test_copies_come_in_the_order_of_their_rows(width: int):
    """Matrix products give equal rows unequal last bits; near copies, half a bit apart, are not equal."""
    generator = np.random.default_rng(width)
    gallery = generator.standard_normal((9, width)).astype(np.float32)[np.arange(1500) % 9]
    gallery[1::2] = np.nextafter(gallery[1::2], np.float32(2))
    queries = generator.standard_normal((5, width)).astype(np.float32)
    exact = queries.astype(np.float64) @ gallery[:18].astype(np.float64).T
    scores, rows = search.top(queries, [gallery[:700], gallery[700:]], 1000, np.arange(5), memory_bytes=1)
    for query in range(5):
        wanted = sorted((row for row in range(1500) if row != query), key=lambda row: (-exact[query, row % 18], row))
        assert rows[query].tolist() == wanted[:1000]
        np.testing.assert_allclose(scores[query], exact[query][rows[query] % 18], rtol=1e-6, atol=1e-6)


def test_a_query_of_zeros_and_one_of_many_copies():
    """Their long shortlists make those of other queries no longer."""
    gallery = np.random.default_rng(0).standard_normal((3000, 16)).astype(np.float32)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    gallery[1000:2500] = gallery[7]
    queries = np.concatenate([np.zeros((1, 16), np.float32), gallery[7:8], gallery[:30]])
    scores, rows = search.top(queries, [gallery], 5, memory_bytes=2**20)
    assert rows[0].tolist() == [0, 1, 2, 3, 4]
    assert rows[1].tolist() == [7, 1000, 1001, 1002, 1003]
    assert (scores[0] == 0).all()
    np.testing.assert_array_equal(rows[2:, 0], np.arange(30))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_gallery_that_is_not_finite_is_refused(value: float):
    gallery = np.eye(6, dtype=np.float32)
    gallery[4, 2] = value
    with pytest.raises(ValueError, match="not finite in row 4"):
        search.top(np.ones((2, 6), np.float32), [gallery], 6)


def test_what_a_products_rounding_may_hide_is_found(monkeypatch: pytest.MonkeyPatch):
    """Products may err by nearly as much as their bound says; the answer is that of the exact similarities."""
    generator = np.random.default_rng(0)
    bound = float(rounding(64, torch.float32, torch.tensor(1.0, dtype=torch.float64)))

    def blurred(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        noise = torch.from_numpy(generator.uniform(-0.9, 0.9, (len(a), len(b))))
        return (a.double() @ b.double().T + noise * bound).float()

    monkeypatch.setattr(search, "products", blurred)
    queries = generator.standard_normal((3, 64))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    near = queries[:1] + 3e-6 * generator.standard_normal((2000, 64))
    gallery = (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
    queries = queries.astype(np.float32)
    exact = queries.astype(np.float64) @ gallery.astype(np.float64).T
    assert np.ptp(exact[0]) < bound
    _, rows = search.top(queries, [gallery], 20)
    for found, values in zip(rows, exact, strict=True):
        np.testing.assert_allclose(values[found], np.sort(values)[::-1][:20], rtol=1e-13)


@pytest.mark.parametrize("width", [3, 64, 1024, 1025, 2100])
def test_codes_against_sorting_everything(width: int):
    """Many ties, in several arrays and blocks."""
    generator = np.random.default_rng(width)
    whole = generator.integers(-127, 128, (1500, width)).astype(np.int8)
    whole[generator.random(1500) < 0.1] = 127
    exclude = np.arange(-1, 8)
    found = search.top(whole[:9], [whole[:800], whole[800:]], 400, exclude, memory_bytes=1)
    wanted, rows = brute(whole[:9].astype(np.float64), whole.astype(np.float64), 400, exclude)
    np.testing.assert_array_equal(found[1], rows)
    np.testing.assert_array_equal(found[0], wanted.astype(np.float32))

    bits = generator.integers(0, 256, (1500, width)).astype(np.uint8)
    bits[::2] = bits[0]
    signs = np.where(np.unpackbits(bits, axis=1), 1.0, -1.0)
    found = search.top(bits[:9], [bits[:800], bits[800:]], 400, exclude, memory_bytes=1)
    wanted, rows = brute(signs[:9], signs, 400, exclude)
    np.testing.assert_array_equal(found[1], rows)
    np.testing.assert_array_equal(found[0], (wanted - 8 * width) / 2)


def test_products_that_differ_by_one_are_told_apart():
    """Beyond 2^24 float32 has no odd numbers: two of these three would be equal, and in the order of their rows."""
    gallery = np.full((3, 2100), 127, np.int8)
    gallery[:, 0] = [125, 126, 127]
    query = np.full((1, 2100), 127, np.int8)
    query[0, 0] = 1
    assert search.top(query, [gallery], 3)[1].tolist() == [[2, 1, 0]]


def test_bits_of_many_rows_are_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(similarity, "_COUNTED", 100)
    a, b = (np.random.default_rng(n).integers(0, 256, (n, 9)).astype(np.uint8) for n in (3, 250))
    wanted = np.unpackbits(a[:, None] ^ b, axis=2).sum(2)
    np.testing.assert_array_equal(similarity.differences(a, b), wanted)


def test_queries_of_codes_are_codes():
    gallery = [np.zeros((4, 2), np.int8)]
    with pytest.raises(ValueError, match="queries: found float32, expected codes of int8 as in the gallery"):
        search.top(np.zeros((1, 2), np.float32), gallery, 1)


@pytest.mark.parametrize(("dtype", "compared"), [(np.int8, "integer_products"), (np.uint8, "differences")])
def test_codes_are_widened_block_by_block(monkeypatch: pytest.MonkeyPatch, dtype: type, compared: str):
    seen, compare = [], getattr(search, compared)
    monkeypatch.setattr(search, compared, lambda a, b: (seen.append(len(b)), compare(a, b))[1])
    search.top(np.zeros((2, 8), dtype), [np.zeros((3000, 8), dtype)], 3, memory_bytes=1)
    assert seen == [1024, 1024, 952]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.uint8])
def test_many_small_arrays_share_blocks(monkeypatch: pytest.MonkeyPatch, dtype: type):
    """As after additions and removals; a block for each would make the search hundreds of times slower."""
    generator = np.random.default_rng(0)
    whole = generator.integers(0, 9, (3000, 8)).astype(dtype)
    parts = np.split(whole, np.sort(generator.integers(0, 3001, 500)))  # some are empty
    sizes, compared = [], search.to_device
    monkeypatch.setattr(
        search, "to_device", lambda values, device: (sizes.append(len(values)), compared(values, device))[1]
    )
    found = search.top(whole[:4], parts, 50, np.arange(4), memory_bytes=1)
    assert sizes == [4, 4, 1024, 1024, 952]  # queries and their own rows first
    for ours, theirs in zip(found, search.top(whole[:4], [whole], 50, np.arange(4), memory_bytes=1), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_more_queries_than_are_searched_together():
    generator = np.random.default_rng(0)
    gallery = generator.integers(-9, 9, (700, 4)).astype(np.float32)
    found = search.top(gallery, [gallery], 5, np.arange(700))
    for ours, theirs in zip(found, brute(gallery, gallery, 5, np.arange(700)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        (np.zeros((1, 2)), 0, "found 0, expected 1 to 3"),
        (np.zeros((1, 2)), 4, "found 4, expected 1 to 3"),
        (np.zeros((1, 3)), 1, r"expected \(Q, 2\)"),
        (np.full((1, 2), np.nan), 1, "not finite"),
    ],
)
def test_errors(queries: np.ndarray, k: int, message: str):
    with pytest.raises(ValueError, match=message):
        search.top(queries, [np.zeros((4, 2), np.float32)], k, np.array([0]))

"""Rough products rule out only what cannot count, on any CPU: they are forced on and off here."""

import numpy as np
import pytest
import torch

from lrec.metrics import blocks, sieve
from lrec.metrics.recall import evaluate


@pytest.mark.parametrize("width", [1, 7, 576, 3000, 24576])
@pytest.mark.parametrize("kind", ["normal", "positive", "halfway", "tiny"])
def test_error_bounds_rough_products(width: int, kind: str):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, width, generator=generator)
    if kind == "positive":  # a sum that loses digits on the way would be far below
        rows = rows.abs()
    if kind == "halfway":  # every value is rounded as far as a value can be
        rows = torch.full_like(rows, 1 + 2.0**-8) * rows.sign()
    if kind == "tiny":
        rows *= 2.0**-70
    found = sieve.products(rows.bfloat16(), rows.bfloat16()).double()
    exact = rows.double() @ rows.double().T
    lengths = rows.double().norm(dim=1)
    bound = sieve.error(width, lengths[:, None] * lengths)
    # The last rounding, to bfloat16, may move a value by 2^-8 of itself.
    assert ((found - exact).abs() <= bound + 2.0**-8 * (exact.abs() + bound)).all()
    if kind != "tiny":
        assert bound.max() < 0.011 * lengths.max() ** 2


@pytest.mark.parametrize("axis", [0, 1])
def test_nothing_that_reaches_its_least_value_is_missed(axis: int):
    generator = torch.Generator().manual_seed(0)
    sums = torch.randn(300, 200, generator=generator) * 0.1
    tile = sums.bfloat16()
    least = 0.25 + 0.1 * torch.randn(tile.shape[axis], generator=generator).double()
    least[0], least[1], least[2] = 0.0, -0.5, torch.inf
    least[3] = sums.select(axis, 3).max()  # just reached, before the last rounding
    reached = sums.double() >= least.unsqueeze(1 - axis)
    lines, places = sieve.reaching(tile, least, axis)
    assert set(reached.any(1 - axis).nonzero()[:, 0].tolist()) <= set(lines.tolist())
    assert set(reached.any(axis).nonzero()[:, 0].tolist()) <= set(places.tolist())
    assert {0, 1, 3} <= set(lines.tolist())
    assert 2 not in lines
    high = torch.full_like(least, 0.25)
    lines, places = sieve.reaching(tile, high, axis)
    assert torch.equal(lines, (tile >= 0.25).any(1 - axis).nonzero()[:, 0])
    assert torch.equal(places, (tile >= 0.25).any(axis).nonzero()[:, 0])


def make(noise: float) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    code = generator.permutation(np.arange(900) // 5)
    data = generator.standard_normal((180, 64))[code] + noise * generator.standard_normal((900, 64))
    data /= np.linalg.norm(data, axis=1, keepdims=True)
    data[::9] = data[0]
    return data.astype(np.float32), code


@pytest.mark.parametrize("side", [24, 96])
@pytest.mark.parametrize("noise", [0.7, 1.2])
@pytest.mark.parametrize("apart", [False, True])
def test_figures_are_those_of_float32_alone(monkeypatch: pytest.MonkeyPatch, side: int, noise: float, apart: bool):
    query, code = make(noise)
    arguments = (query[:400], code[:400], [1, 10], query[400:], code[400:]) if apart else (query, code, [1, 10])
    monkeypatch.setattr(sieve, "supported", lambda device: False)
    expected = evaluate(*arguments)
    monkeypatch.setattr(sieve, "supported", lambda device: True)
    monkeypatch.setattr(blocks, "_TILE", side)
    sifted = []
    sift = sieve.Sieve.sift
    monkeypatch.setattr(sieve.Sieve, "sift", lambda *x: sifted.append(sift(*x)) or sifted[-1])
    for precision in (True, False):
        found = evaluate(*arguments, precision=precision, memory_bytes=3_000_000)
        np.testing.assert_array_equal(found.best_rank, expected.best_rank)
        assert found.recall == expected.recall
        if precision:
            assert (found.map_at_r, found.r_precision) == (expected.map_at_r, expected.r_precision)
    left = [pair for some in sifted if some for pair in some]
    assert left
    assert min(len(queries) * len(items) for queries, items in left) < side * side / 4


def test_it_skips_tiles_where_everything_may_count(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sieve, "supported", lambda device: True)
    monkeypatch.setattr(blocks, "_TILE", 32)
    asked = []
    true = sieve.products
    monkeypatch.setattr(sieve, "products", lambda a, b: asked.append(1) or true(a, b))
    found = evaluate(np.full((900, 8), 0.3, np.float32), np.arange(900) // 3, [1, 898])
    assert found.recall == {1: 0.0, 898: 1.0}
    assert 3 <= len(asked) < 30

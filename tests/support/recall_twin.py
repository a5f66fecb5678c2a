"""A brute-force float64 twin of the retrieval metrics, and embeddings and labels for comparing them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from lrec.metrics.recall import evaluate, recall_at_k


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
    """Draw rows with many exact duplicates, ties, zero rows and near-duplicates, in any dtype and layout."""
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
    """Draw labels for rows: integers, text, or a mixture as an array of objects."""
    names = draw(st.sampled_from([[0, 1, 2, 3, 4], ["b", "a", "é"], [0, "a", (1, 2), None], [7]]))
    chosen = draw(st.lists(st.sampled_from(names), min_size=rows, max_size=rows))
    if not draw(st.booleans()):
        return chosen
    array = np.empty(rows, object)
    array[:] = chosen
    return array


MEMORY = st.sampled_from([1, 3_000, 2**28])


def classes(images, size, width, noise, seed=0):
    """Make unit vectors around random class centres, in random order."""
    generator = np.random.default_rng(seed)
    code = generator.permutation(np.arange(images) // size)
    data = generator.standard_normal((images, width))[code] + noise * generator.standard_normal((images, width))
    return (data / np.linalg.norm(data, axis=1, keepdims=True)).astype(np.float32), code

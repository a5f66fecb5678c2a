"""Search with faiss beside exact search."""

import numpy as np
import pandas as pd
import pytest

from lrec.retrieve import Database, approximate


@pytest.mark.parametrize("kind", approximate.KINDS)
def test_faiss_against_exact(kind: str):
    pytest.importorskip("faiss", reason="faiss is an optional dependency: pip install faiss-cpu")
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(50, 32))
    gallery = (centres[np.arange(3000) % 50] + 0.3 * generator.normal(size=(3000, 32))).astype(np.float32)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    index = pd.DataFrame({"path": [""] * 3000, "class": "", "row": -1})
    database = Database(gallery, index, {})
    exclude = np.arange(20)
    exact = database.search(gallery[:20], 10, exclude)
    scores, rows = approximate.Index(kind, database.parts).search(gallery[:20], 10, exclude)
    assert not (rows == exclude[:, None]).any()
    assert (np.diff(scores, axis=1) <= 0).all()
    assert approximate.agreement(exact[1], rows) >= {"flat": 1, "hnsw": 0.95, "ivfpq": 0.4}[kind]


def test_faiss_errors():
    pytest.importorskip("faiss", reason="faiss is an optional dependency: pip install faiss-cpu")
    few = [np.zeros((10, 4), np.float32)]
    with pytest.raises(ValueError, match="expected one of flat, ivfpq, hnsw"):
        approximate.Index("tree", few)
    with pytest.raises(ValueError, match="expected at least 256"):
        approximate.Index("ivfpq", few)


def test_agreement_by_hand():
    assert approximate.agreement(np.array([[1, 2], [3, 4]]), np.array([[2, 9], [4, 3]])) == 0.75

"""Codes by hand, their bytes, and what they refuse."""

import numpy as np
import pytest

from lrec.embedding.codes import NAMES, Codes

TRAIN = np.array([[0.5, -0.25, 0], [-0.5, 0.75, 0]], np.float32)


def test_by_hand():
    some = np.array([[0.1, 0.2, 0], [0.9, 0.3, -1]], np.float32)
    whole, bits = (Codes.fit(name, [TRAIN]) for name in NAMES)
    assert whole.encode(some).tolist() == [[17, 34, 0], [127, 51, -127]]
    assert (whole.encode(some).dtype, whole.bytes) == (np.int8, 3)
    assert bits.encode(some).tolist() == [[0b10000000], [0b11000000]]
    assert (bits.encode(some).dtype, bits.bytes) == (np.uint8, 1)
    assert bits.numbers(bits.encode(some)).tolist() == [[1, -1, -1], [1, 1, -1]]
    np.testing.assert_allclose(whole.similarities(np.array([[127.0**2]])), [[0.75**2]], rtol=1e-6)
    np.testing.assert_allclose(bits.similarities(np.array([0, -1, -3])), [1, 1 / 3, -1], rtol=1e-6)


def test_float16_and_several_parts_are_fitted_alike():
    for name in NAMES:
        np.testing.assert_array_equal(
            Codes.fit(name, [TRAIN]).fitted, Codes.fit(name, [TRAIN[:1].astype(np.float16), TRAIN[1:]]).fitted
        )


def test_of_many_rows_some_are_fitted():
    many = np.zeros((10_000, 2), np.float32)
    many[::3] = 1  # every third of 10,000 is used
    assert Codes.fit("binary", [many]).fitted.tolist() == [1, 1]


def test_embeddings_that_are_all_zero():
    whole, bits = (Codes.fit(name, [np.zeros((4, 9), np.float16)]) for name in NAMES)
    assert not whole.encode(np.zeros((2, 9), np.float32)).any()
    assert np.isfinite(whole.similarities(np.array([127.0**2]))).all()
    assert not bits.encode(np.zeros((2, 9), np.float32)).any()


@pytest.mark.parametrize("name", NAMES)
def test_errors(name: str):
    codes = Codes.fit(name, [TRAIN])
    with pytest.raises(ValueError, match=r"found the shape \(1, 2\), expected \(N, 3\)"):
        codes.encode(np.zeros((1, 2), np.float32))
    with pytest.raises(ValueError, match="not finite in row 71, expected numbers"):
        codes.encode(np.array([[0, 0, 0], [0, np.nan, 0]], np.float32), 70)
    with pytest.raises(ValueError, match="codes: found a value that is not finite to fit on"):
        Codes.fit(name, [np.full((2, 2), np.inf, np.float32)])
    with pytest.raises(ValueError, match="codes: found no embeddings to fit on"):
        Codes.fit(name, [TRAIN[:0]])
    with pytest.raises(ValueError, match="codes: found 'int4', expected one of int8, binary"):
        Codes.fit("int4", [TRAIN])

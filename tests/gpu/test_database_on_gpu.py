"""A database whose queries are embedded and searched on a device that has CUDA's rules."""

from pathlib import Path

import checked_device
import numpy as np
import pytest
from retrieval_project import make

from lrec.embedding.codes import NAMES
from lrec.retrieve import Database


def test_images_are_found(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    make(root, tmp_path)
    monkeypatch.chdir(tmp_path)
    on_cpu = Database.load("tiny/resnet18")
    pixels = np.stack([on_cpu.image(row) for row in range(3)])
    expected = on_cpu.search(pixels, 3)
    with checked_device.active(monkeypatch):
        scores, rows = Database.load("tiny/resnet18", device=checked_device.NAME).search(pixels, 3)
    np.testing.assert_array_equal(rows, expected[1])
    np.testing.assert_allclose(scores, expected[0], atol=1e-5)  # its channels lie last
    for codes in NAMES:
        on_cpu.save("codes", codes=codes)
        queries = np.array(on_cpu.parts[0][:3])
        expected = Database.load("codes").search(queries, 5)
        with checked_device.active(monkeypatch):
            found = Database.load("codes", device=checked_device.NAME).search(queries, 5)
        np.testing.assert_array_equal(found, expected)

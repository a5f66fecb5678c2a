"""Small raw data sets in the exact formats of the official ones, for the tests of the readers."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

from lrec.datasets.dataset import Dataset, Sample

# Columns 5-9 and rows 3-10 of a 20x16 image, counted from 0 and inclusive, are red.
RED = (255, 0, 0)
RED_BOX = (5, 3, 10, 11)
CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


def shared(path: str) -> Path:
    """Return a file of the real data beside the repository (or in LREC_SHARED); skip the test if it is missing."""
    root = Path(os.environ.get("LREC_SHARED") or Path(__file__).parents[3] / "shared")
    if not (root / "data" / path).exists():
        pytest.skip(f"no real data: {root / 'data' / path} is absent (LREC_SHARED names its folder)")
    return root / "data" / path


def touch(root: Path, paths: Iterable[str]) -> None:
    """Create empty files, because the readers look only at names."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def write(file: Path, text: str) -> Path:
    """Write a text file, and create its folders."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def draw_marked(file: Path) -> None:
    """Write a blue image with `RED_BOX` in red, as a PNG whatever its name."""
    pixels = np.zeros((16, 20, 3), np.uint8)
    pixels[..., 2] = 255
    pixels[3:11, 5:10] = RED
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, format="PNG")


def check_box(dataset: Dataset, sample: Sample) -> None:
    """Check that the box of an image written by `draw_marked` is exact to the pixel."""
    assert sample.box == RED_BOX
    image = dataset.load(sample)
    cut = np.asarray(image.crop(sample.box))
    assert (cut == RED).all()
    assert cut.size == 3 * (np.asarray(image) == RED).all(-1).sum()


def save_mat(
    file: Path, rows: Sequence[tuple], path_field: str = "relative_im_path", names: Sequence[str] | None = None
) -> None:
    """Write CARS annotations: each row is path, x1, y1, x2, y2, class; integers small as in the original."""
    table = np.zeros((1, len(rows)), [(name, object) for name in (path_field, *CORNERS, "class", "test")])
    for number, (path, *corners, class_id) in enumerate(rows):
        small = [np.uint8(c) if isinstance(c, int) and 0 <= c < 256 else c for c in corners]
        # The official field is the opposite of the retrieval split.
        table[0, number] = (path, *small, class_id, np.uint8(isinstance(class_id, int) and class_id <= 98))
    content: dict = {"annotations": table}
    if names is not None:
        content["class_names"] = np.array([list(names)], dtype=object)
    file.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(file, content)

"""A teacher: what a trained ensemble makes of the training images, for another network to learn."""

from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from lrec.io import files, hashing, missing, reading

EMBEDDINGS, FACTS, AVERAGE = "train.npy", "teacher.json", "average.safetensors"
PARAMETER = "train.teacher"


class Facts(TypedDict):
    """What teacher.json says.

    run: of the ensemble. data: `lrec.data.store.digest` of the images. embeddings: SHA-256 of their file.
    """

    run: Annotated[str, Field(min_length=1)]
    data: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
    embeddings: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def write(folder: Path, embeddings: np.ndarray, run: str, data: str) -> None:
    """Write the embeddings of a store's training images, (R, d) floats in the order of its rows, and their facts."""
    out = files.map_array(folder / EMBEDDINGS, "float32", embeddings.shape)
    out[:] = embeddings
    out.flush()
    facts = {"run": run, "data": data, "embeddings": hashing.of_file(folder / EMBEDDINGS)}
    files.write_json(folder / FACTS, facts)


def read(folder: str, images: int, data: str) -> tuple[np.ndarray, str]:
    """Memory-map a teacher's embeddings, (R, d) float32; return what to record of it as well: run and start of SHA-256.

    Args:
        folder: of the teacher.
        images: R, training images.
        data: `lrec.data.store.digest` of the store that has them.

    Raises:
        FileNotFoundError: there is no teacher.
        ValueError: it is damaged, or has seen other images.
    """
    path = Path(folder)
    if not (path / FACTS).is_file():
        raise FileNotFoundError(
            f"{path / FACTS}: not found{missing.hint(path / FACTS)}; {PARAMETER} must be a folder that "
            "`python -m lrec.export <run> --format teacher` wrote"
        )
    facts = reading.read_json(path / FACTS, reading.GIVEN, Facts)
    found = reading.read_array(path / EMBEDDINGS, reading.GIVEN, 2, np.float32, finite=True)
    if hashing.of_file(path / EMBEDDINGS) != facts["embeddings"]:
        raise ValueError(f"{path / EMBEDDINGS}: not the file that {FACTS} beside it describes; export it again")
    if facts["data"] != data or len(found) != images:
        raise ValueError(
            f"{path}: a teacher that saw {len(found):,} other training images (run {facts['run']}), expected these "
            f"{images:,}; train both on the same packed images: layout, crop, resize and image_size"
        )
    return found, f"{facts['run']} {facts['embeddings'][:16]}"

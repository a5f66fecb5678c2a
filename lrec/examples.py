"""Queries worth looking at, the hardest and typical ones, with what they find."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lrec import files, paths, search
from lrec.recall import evaluate
from lrec.retrieve import Database

QUERIES, RESULTS = 6, 8
_SEED = 0
_SIDE = 128  # of a stored picture, pixels; smaller ones stay as they are, without loss


def choose(best_rank: np.ndarray, labels: np.ndarray, count: int, seed: int = _SEED) -> dict[str, np.ndarray]:
    """Choose queries to show.

    Args:
        best_rank: (Q,) rank of each query's best positive from 1, 0 for a query without one.
        labels: (Q,) classes.
        count: queries per section.
        seed: of the typical ones.

    Returns:
        {"hardest", "typical"}: query numbers. Hardest are those with the lowest ranked best positive, one
        per class, leaving out queries without a positive; typical ones are drawn at random from all.
    """
    order = np.lexsort((np.arange(len(best_rank)), -best_rank))
    _, first = np.unique(labels[order], return_index=True)
    hardest = order[np.sort(first)]
    typical = np.random.default_rng(seed).permutation(len(best_rank))[:count]
    return {"hardest": hardest[best_rank[hardest] > 0][:count], "typical": np.sort(typical)}


def write(embeddings: Path, target: Path, device: str) -> None:
    """Search a combination's test images and write examples.json and the pictures it names.

    Args:
        embeddings: folder of the stage embed.
        target: the folder, which appears complete or not at all.
        device: of the search.
    """
    searched = Database.load(embeddings, device=device)
    is_apart = searched.facts["split"] == "gallery"
    queries = Database.load(embeddings, "query", device) if is_apart else searched
    with files.atomic_folder(target) as folder:
        make(queries, searched if is_apart else None, folder, QUERIES, RESULTS, device)


def make(queries: Database, gallery: Database | None, folder: Path, count: int, results: int, device: str) -> None:
    """Write examples.json and the pictures it names into a folder.

    Args:
        queries: Q images.
        gallery: what they are searched in; None is each other.
        folder: to fill.
        count: queries per section.
        results: per query, or as many as there are.
        device: of the search.
    """
    searched = gallery or queries
    own, others = (np.array(d.index["class"]) for d in (queries, searched))
    found = evaluate(
        queries.parts[0],
        own,
        [1],
        *((searched.parts[0], others) if gallery else (None, None)),
        precision=False,
        device=device,
    )
    chosen = choose(found.best_rank, own, count)
    k = min(results, len(searched) - (gallery is None))
    sections: dict[str, list[dict[str, Any]]] = {}
    for name, rows in chosen.items():
        exclude = rows if gallery is None else np.full(len(rows), search.NO_ROW)
        scores, hits = searched.search(np.asarray(queries.parts[0][rows], np.float32), k, exclude)
        sections[name] = [
            {
                **_image(queries, query, folder),
                "best_rank": int(found.best_rank[query]),
                "results": [
                    _image(searched, row, folder)
                    | {"similarity": round(float(score), 4), "right": others[row] == own[query]}
                    for score, row in zip(scores[place], hits[place].tolist(), strict=True)
                ],
            }
            for place, query in enumerate(rows.tolist())
        ]
    for entry in (result for section in sections.values() for query in section for result in query["results"]):
        entry["right"] = bool(entry["right"])
    files.write_json(
        folder / paths.EXAMPLES, {"searched": len(searched), "queries": len(queries), "sections": sections}
    )


def _image(database: Database, row: int, folder: Path) -> dict[str, Any]:
    """Write the picture of a row once, and return its class, path and file name."""
    entry = database.index.iloc[row]
    pixels = database.picture(row)
    if pixels is None:
        raise ValueError(f"{database.facts['store']}: found no picture of {entry['path']}; run `dvc repro`")
    small = max(pixels.shape[:2]) < _SIDE
    name = f"{entry['row']}.{'png' if small else 'jpg'}"
    if not (folder / name).exists():
        (folder / name).write_bytes(_encoded(Image.fromarray(pixels), small))
    return {"path": entry["path"], "class": entry["class"], "image": name}


def _encoded(picture: Image.Image, small: bool) -> bytes:
    buffer = io.BytesIO()
    try:
        if small:
            picture.save(buffer, "PNG")
        else:
            picture.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
            picture.save(buffer, "JPEG", quality=85)
    except OSError as error:
        # Nothing is written to a disk here; codecs that find no memory say that their configuration is wrong.
        raise MemoryError(f"while a picture was encoded: {error}") from error
    return buffer.getvalue()

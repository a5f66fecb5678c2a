"""The names of splits: as folders of raw data, as a column of tables and as files of embeddings.

They live here because both sides of the packed store need them, the readers (`lrec.datasets`) and what trains on it
(`lrec.data`), and neither may import the other.
"""

from collections.abc import Iterable

TRAIN, TEST, QUERY, GALLERY = "train", "test", "query", "gallery"
SPLITS = (TRAIN, TEST, QUERY, GALLERY)


def tested(splits: Iterable[str]) -> list[str]:
    """Return the splits that are searched and searched in: query and gallery, or else test.

    >>> tested(["train", "test"]), tested(["train", "query", "gallery"])
    (['test'], ['query', 'gallery'])
    """
    return [QUERY, GALLERY] if QUERY in set(splits) else [TEST]


def are_whole(splits: Iterable[str]) -> bool:
    """Return whether a data set can be trained on and tested with these splits, and has no others.

    >>> are_whole(["train", "gallery", "query"]), are_whole(["train"]), are_whole(["train", "test", "query"])
    (True, False, False)
    """
    found = set(splits)
    return found == {TRAIN, *tested(found)}

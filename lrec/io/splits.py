"""The names of splits: of folders of raw data, in a column of tables, and of files of embeddings.

They are here because both the readers (`lrec.datasets`) and the packed store (`lrec.data`) need them, and neither may
import the other.
"""

from collections.abc import Iterable

TRAIN, TEST, QUERY, GALLERY = "train", "test", "query", "gallery"
SPLITS = (TRAIN, TEST, QUERY, GALLERY)


def tested(splits: Iterable[str]) -> list[str]:
    """Return the splits that are evaluated: that of the queries and that of the gallery, or test, which is both.

    >>> tested(["train", "test"]), tested(["train", "query", "gallery"])
    (['test'], ['query', 'gallery'])
    """
    return [QUERY, GALLERY] if QUERY in set(splits) else [TEST]


def are_whole(splits: Iterable[str]) -> bool:
    """Return whether these splits are exactly those that training and evaluation need.

    >>> are_whole(["train", "gallery", "query"]), are_whole(["train"]), are_whole(["train", "test", "query"])
    (True, False, False)
    """
    found = set(splits)
    return found == {TRAIN, *tested(found)}

"""The names of splits: of folders of raw data, in a column of tables, and of files of embeddings.

They are here because both the readers (`lrec.datasets`) and the packed store (`lrec.data`) need them, and neither may
import the other.
"""

from collections.abc import Iterable, Mapping, Sequence

TRAIN, TEST, QUERY, GALLERY = "train", "test", "query", "gallery"
SPLITS = (TRAIN, TEST, QUERY, GALLERY)


def tested(splits: Iterable[str]) -> list[str]:
    """Return the splits that are evaluated: that of the queries and that of the gallery, or test, which is both.

    >>> tested(["train", "test"]), tested(["train", "query", "gallery"])
    (['test'], ['query', 'gallery'])
    """
    return [QUERY, GALLERY] if QUERY in set(splits) else [TEST]


def meaningless(counts: Mapping[str, Sequence[int]], queries: int, lone: int) -> str:
    """Return why a recall says nothing about the embeddings; empty if it does say something.

    Args:
        counts: (images, classes) per split.
        queries: how many there are.
        lone: how many of them have no positive.

    >>> meaningless({"train": (9, 3), "test": (5, 1)}, 5, 0)
    'all that is searched is of one class, so every result is right whatever the embeddings are'
    """
    if lone == queries:
        return "no query has another image of its class to find, so every result is wrong whatever the embeddings are"
    classes = [counts[split][1] for split in tested(counts) if split in counts]
    if classes and max(classes) == 1:
        return "all that is searched is of one class, so every result is right whatever the embeddings are"
    return ""


def are_whole(splits: Iterable[str]) -> bool:
    """Return whether these splits are exactly those that training and evaluation need.

    >>> are_whole(["train", "gallery", "query"]), are_whole(["train"]), are_whole(["train", "test", "query"])
    (True, False, False)
    """
    found = set(splits)
    return found == {TRAIN, *tested(found)}

"""The names of splits, in folders of raw data, columns of tables and files of embeddings.

They are here because `lrec.datasets` and `lrec.data` both need them, and neither may import the other.
"""

from collections.abc import Iterable, Mapping, Sequence

TRAIN, TEST, QUERY, GALLERY = "train", "test", "query", "gallery"
SPLITS = (TRAIN, TEST, QUERY, GALLERY)


def tested(splits: Iterable[str]) -> list[str]:
    """Return the splits that are evaluated: query and gallery, or test, which serves as both.

    >>> tested(["train", "test"]), tested(["train", "query", "gallery"])
    (['test'], ['query', 'gallery'])
    """
    return [QUERY, GALLERY] if QUERY in set(splits) else [TEST]


def meaningless(counts: Mapping[str, Sequence[int]], queries: int, lone: int) -> str:
    """Return the reason why a recall does not depend on the embeddings, or an empty string if it does.

    Args:
        counts: (images, classes) per split.
        queries: number of queries.
        lone: number of queries without a positive.

    >>> meaningless({"train": (9, 3), "test": (5, 1)}, 5, 0)
    'all images searched are of one class, so every result is right whatever the embeddings are'
    """
    if lone == queries:
        return "no query has another image of its class to find, so every result is wrong whatever the embeddings are"
    classes = [counts[split][1] for split in tested(counts) if split in counts]
    if classes and max(classes) == 1:
        return "all images searched are of one class, so every result is right whatever the embeddings are"
    return ""


def are_whole(splits: Iterable[str]) -> bool:
    """Return whether the splits are exactly those that training and evaluation need.

    >>> are_whole(["train", "gallery", "query"]), are_whole(["train"]), are_whole(["train", "test", "query"])
    (True, False, False)
    """
    found = set(splits)
    return found == {TRAIN, *tested(found)}

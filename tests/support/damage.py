"""Ways to damage a file: functions that map its bytes to other bytes."""

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np

Damage = Callable[[bytes], bytes]
REMOVE = object()


def cut(share: float) -> Damage:
    """Keep only the beginning of the file, this share of its bytes."""
    return lambda data: data[: int(len(data) * share)]


def swap(old: str, new: str | bytes) -> Damage:
    """Replace the first occurrence of a text."""

    def change(data: bytes) -> bytes:
        assert old.encode() in data, old
        return data.replace(old.encode(), new if isinstance(new, bytes) else new.encode(), 1)

    return change


def other(content: bytes) -> Damage:
    """Replace the whole file."""
    return lambda data: content


def key(path: str, value: Any = REMOVE) -> Damage:
    """Set or remove a value of a JSON file; a path looks like a.b.0."""

    def change(data: bytes) -> bytes:
        whole = json.loads(data)
        *parents, last = path.split(".")
        place = whole
        for part in parents:
            place = place[int(part) if isinstance(place, list) else part]
        last = int(last) if isinstance(place, list) else last
        if value is REMOVE:
            del place[last]
        else:
            place[last] = value
        return json.dumps(whole).encode()

    return change


def array(change: Callable[[np.ndarray], np.ndarray]) -> Damage:
    """Replace the array of a .npy file; the new one keeps its memory order."""

    def damage(data: bytes) -> bytes:
        stream = io.BytesIO()
        np.save(stream, change(np.load(io.BytesIO(data))), allow_pickle=True)
        return stream.getvalue()

    return damage


def rows(change: Callable[[list[str]], list[str]]) -> Damage:
    """Change the lines of a text file."""
    return lambda data: ("\n".join(change(data.decode().splitlines())) + "\n").encode()

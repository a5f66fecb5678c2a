"""A database that several threads use at once."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from retrieval_project import FILE
from turns import require_turn

from lrec.io import locks, reading
from lrec.metrics import search
from lrec.model import saved
from lrec.model.ensemble import Ensemble
from lrec.retrieve import Database, storage


@pytest.mark.parametrize("work", ["embed", "search"])
def test_threads_take_turns(database: Database, work: str, monkeypatch: pytest.MonkeyPatch):
    """As the threads of a server; a barrier tells whether two of them compute at the same time."""
    together, met = threading.Barrier(2, timeout=0.5), []

    def meet(whole: Callable) -> Callable:
        def met_in(*given, **options):
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait()
                met.append(work)
            return whole(*given, **options)

        return met_in

    expected = database.search(FILE, 3)
    if work == "embed":
        monkeypatch.setattr(Ensemble, "embed", meet(Ensemble.embed))
    else:
        monkeypatch.setattr(search, "top", meet(search.top))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: database.search(FILE, 3), range(2)))
    for scores, rows in found:
        np.testing.assert_array_equal(rows, expected[1])
        np.testing.assert_allclose(scores, expected[0], atol=1e-6)
    assert not met


def test_what_threads_add_at_once_is_all_there():
    width, count = 8, 200
    facts = {"kind": "logits", "resize": "squash"}
    index = pd.DataFrame({"path": [""], "class": [""], "row": [-1]})
    database = Database(np.ones((1, width), np.float32), index, facts)
    with ThreadPoolExecutor(4) as pool:
        added = list(pool.map(lambda number: database.add(np.full((1, width), number, np.float32)), range(count)))
    assert sorted(np.concatenate(added).tolist()) == list(range(1, count + 1))
    for number, rows in enumerate(added):
        assert database.embedding(int(rows[0])).tolist() == [number] * width
    assert len(database) == sum(map(len, database.parts))


def test_the_model_is_read_once_by_all_threads(database: Database, monkeypatch: pytest.MonkeyPatch):
    together, read, whole = threading.Barrier(2, timeout=0.5), [], saved.load

    def load(folder: Path):
        read.append(folder)
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait()
        return whole(folder)

    monkeypatch.setattr(saved, "load", load)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: database.encoder, range(2)))
    assert found[0] is found[1]
    assert len(read) == 1


def test_a_folder_that_is_saved_while_it_is_opened(database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Index and embeddings are of one database."""
    database.save(tmp_path / "saved")
    other = Database(np.array(database.parts[0][::-1]), database.index[::-1].reset_index(drop=True), database.facts)
    whole, read = reading.read_table, []

    def read_table(path: Path, *how, **options) -> pd.DataFrame:
        found = whole(path, *how, **options)
        if not read:
            read.append(path)
            other.save(tmp_path / "saved")
        return found

    monkeypatch.setattr(reading, "read_table", read_table)
    opened = Database.load(tmp_path / "saved")
    pd.testing.assert_frame_equal(opened.index, other.index)
    np.testing.assert_array_equal(opened.parts[0], other.parts[0])


def test_two_that_save_one_folder_take_turns(database: Database, tmp_path: Path):
    """From any current folder; a claim of the project would be in the current one."""
    require_turn(tmp_path / "saved", lambda: database.save(tmp_path / "saved"))
    assert [entry.name for entry in tmp_path.iterdir() if "saved" in entry.name] == ["saved"]


def test_files_put_there_while_a_save_waits_are_kept(database: Database, tmp_path: Path):
    def save() -> None:
        with pytest.raises(ValueError, match="found notes.txt, expected a new or empty folder"):
            database.save(tmp_path / "saved")
        refused.append(True)

    refused: list[bool] = []
    thread = threading.Thread(target=save)
    with locks.alone(tmp_path / "saved"):
        thread.start()
        (tmp_path / "saved").mkdir()
        (tmp_path / "saved/notes.txt").touch()
    thread.join()
    assert refused
    assert (tmp_path / "saved/notes.txt").exists()


def test_a_model_replaced_while_a_save_waits_is_not_copied(project: Path, monkeypatch: pytest.MonkeyPatch):
    """Its hash was checked before."""
    model, whole = Path("models/tiny/resnet18/model.safetensors"), storage.write

    def write(*given) -> None:
        model.write_bytes(b"another")
        whole(*given)

    monkeypatch.setattr(storage, "write", write)
    with pytest.raises(ValueError, match=f"^{model}: replaced while the database was saved; run `dvc repro`"):
        Database.load("tiny/resnet18").save("saved", with_model=True)
    assert not Path("saved").exists()


def test_a_folder_outside_one_whose_name_is_not_text(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The saved paths would lead through its name."""
    current = tmp_path / "proj\udce9"
    current.mkdir()
    monkeypatch.chdir(current)
    with pytest.raises(ValueError, match="its name is not UTF-8 text; rename it"):
        database.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    database.save("inside")
    assert len(Database.load("inside")) == len(database)

"""The database in Python: load, search, add, save, its size and speed, and faiss beside it."""

import contextlib
import io
import json
import re
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lrec.embedding import reduction
from lrec.io import hashing
from lrec.metrics import search
from lrec.model import saved
from lrec.model.ensemble import Ensemble
from lrec.retrieve import Database, Encoder, approximate


@pytest.fixture
def database(made: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    monkeypatch.chdir(made)
    return Database.load("tiny/resnet18")


def test_load(database: Database):
    assert len(database) == 24
    assert database.width == 8
    assert isinstance(database.parts[0], np.memmap)
    assert "_encoder" not in vars(database)  # the model waits


def test_load_by_folder(database: Database):
    assert len(Database.load("embeddings/tiny/resnet18", "train")) == 16


def test_from_another_folder(database: Database, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As from a notebook: nothing depends on where a database is opened."""
    expected = database.search("raw/pictures/0.png", 3)
    database.add("raw/pictures/1.png", "added")
    database.save(tmp_path / "mine")
    (made / "notebooks").mkdir(exist_ok=True)
    image = made / "raw/pictures/0.png"
    for place, run in (
        (made / "notebooks", Path("../embeddings/tiny/resnet18")),
        (tmp_path, made / "embeddings/tiny/resnet18"),
    ):
        monkeypatch.chdir(place)
        opened = Database.load(run)
        np.testing.assert_array_equal(opened.search(image, 3)[1], expected[1])
        assert opened.image(0) is not None
        with pytest.raises(FileNotFoundError, match="no runs in .*name a run by its folder, as"):
            Database.load("tiny/resnet18")
        again = Database.load(tmp_path / "mine")
        np.testing.assert_array_equal(again.search(image, 3)[1], expected[1])
        assert again.image(0) is not None
        assert again.image(len(again) - 1) is not None
        again.add(image)
        again.save("copied")
        monkeypatch.chdir("/")
        copy = Database.load(place / "copied")
        assert copy.image(len(copy) - 1) is not None
        assert copy.search(image, 1)[1] == [[len(copy) - 1]]


def test_search_takes_embeddings_tensors_and_images(database: Database):
    expected = database.search(np.array(database.parts[0][:2]), 3)
    assert expected[1][:, 0].tolist() == [0, 1]
    pixels = np.stack([database.image(0), database.image(1)])
    images = [Image.fromarray(p) for p in pixels]
    files = ["raw/pictures/16.png", Path("raw/pictures/17.png")]
    for queries in (torch.from_numpy(np.array(database.parts[0][:2])), pixels, images, files):
        scores, rows = database.search(queries, 3)
        np.testing.assert_array_equal(rows, expected[1])
        np.testing.assert_allclose(scores, expected[0], atol=1e-5)
    for single in (pixels[0], images[0], files[0], files[1]):
        assert database.search(single, 3)[0].shape == (1, 3)


def test_other_weights_than_the_databases_are_refused(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Embeddings of two networks have nothing to do with each other."""
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    Database.load("tiny/resnet18").save("saved")
    path = Path("models/tiny/resnet18/model.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for name in ("tiny/resnet18", "saved"):
        database = Database.load(name)
        assert database.search(np.array(database.parts[0][:1]), 1)[1] == [[0]]
        with pytest.raises(ValueError, match=r"model\.safetensors: found other weights .*run `dvc repro`"):
            database.search("raw/pictures/0.png", 1)
    facts = json.loads(Path("saved/database.json").read_text())
    Path("saved/database.json").write_text(json.dumps({key: facts[key] for key in facts if key != "weights"}))
    assert Database.load("saved").search("raw/pictures/0.png", 1)[1].shape == (1, 1)  # made before they were noted


def test_add_and_save(database: Database, tmp_path: Path):
    rows = database.add(["raw/pictures/0.png", "raw/pictures/1.png"], ["new", ""])
    assert rows.tolist() == [24, 25]
    for _ in range(2):  # the second time over the folder that is open
        database.save(tmp_path / "saved")
        database = Database.load(tmp_path / "saved")
        assert len(database) == 26
        assert database.index["class"].tolist()[-2:] == ["new", ""]
        scores, found = database.search("raw/pictures/0.png", 1)
        assert found.tolist() == [[24]]
        np.testing.assert_allclose(scores, 1, atol=1e-5)
        np.testing.assert_array_equal(database.image(24), np.asarray(Image.open("raw/pictures/0.png")))
        np.testing.assert_array_equal(database.embedding(25), database.parts[-1][-1])


def test_embeddings_need_no_model(database: Database, tmp_path: Path):
    bare = Database(np.array(database.parts[0]), database.index, {})
    assert bare.add(torch.from_numpy(np.array(database.parts[0][:2]))).tolist() == [24, 25]
    bare.save(tmp_path / "bare")
    again = Database.load(tmp_path / "bare")
    assert again.search(again.parts[0][:1], 2)[1].tolist() == [[0, 24]]
    with pytest.raises(ValueError, match="names no model that could embed an image"):
        bare.add(["raw/pictures/0.png"])
    with pytest.raises(ValueError, match=r"found the shape \(2, 9\), expected \(N, 8\)"):
        bare.add(np.zeros((2, 9), np.float32))


def test_half_precision(database: Database, tmp_path: Path):
    half = Database(np.array(database.parts[0], np.float16), database.index, database.facts)
    half.save(tmp_path / "half")
    loaded = Database.load(tmp_path / "half")
    assert loaded.parts[0].dtype == np.float16
    exact, rounded = (d.search(np.array(database.parts[0]), 1)[0] for d in (database, loaded))
    np.testing.assert_allclose(exact, rounded, atol=2e-3)


def test_a_large_one_is_opened_without_being_read(tmp_path: Path, database: Database):
    embeddings = np.lib.format.open_memmap(tmp_path / "e.npy", mode="w+", dtype=np.float16, shape=(20_000, 64))
    index = pd.DataFrame({"path": [f"{i}.png" for i in range(20_000)], "class": "x", "row": -1})
    Database(embeddings, index, database.facts).save(tmp_path / "large")
    loaded = Database.load(tmp_path / "large")
    assert isinstance(loaded.parts[0], np.memmap)
    assert (tmp_path / "large/embeddings.npy").stat().st_size == 20_000 * 64 * 2 + 128


@pytest.mark.parametrize(
    ("embeddings", "rows", "message"),
    [
        (np.zeros((2, 3)), 2, "found float64"),
        (np.zeros(3, np.float32), 3, "expected \\(G, d\\)"),
        (np.zeros((2, 3), np.float32), 3, "found 3 rows, expected 2"),
    ],
)
def test_bad_arrays(embeddings: np.ndarray, rows: int, message: str):
    index = pd.DataFrame({"path": [""] * rows, "class": "", "row": -1})
    with pytest.raises(ValueError, match=message):
        Database(embeddings, index, {})


def test_bad_calls(database: Database):
    with pytest.raises(ValueError, match="classes: found 1, expected 2"):
        database.add(["raw/pictures/0.png"] * 2, ["a"])
    with pytest.raises(ValueError, match=r"found float64 of shape \(4, 4, 3\)|expected \(Q, 8\)"):
        database.search(np.zeros((4, 4, 3)), 1)
    with pytest.raises(FileNotFoundError, match="expected one of shop/resnet18, tiny/resnet18"):
        Database.load("tiny/resnet19")


FILE = "raw/pictures/16.png"
SINGLE = {
    "text": lambda database: FILE,
    "bytes": lambda database: Path(FILE).read_bytes(),
    "binary file": lambda database: io.BytesIO(Path(FILE).read_bytes()),
    "path": lambda database: Path(FILE),
    "opened": lambda database: Image.open(FILE),
    "pixels": lambda database: database.image(0),
    "tensor of pixels": lambda database: torch.from_numpy(database.image(0)),
    "embedding": lambda database: np.array(database.parts[0][0]),
    "tensor": lambda database: torch.from_numpy(np.array(database.parts[0][0])).double(),
}


@pytest.mark.parametrize("name", SINGLE)
def test_one_and_a_list_of_one_are_alike(database: Database, tmp_path: Path, name: str):
    one = SINGLE[name](database)
    for given in (one, [one], (one,)):
        scores, rows = database.search(given, 2, exclude=3)
        assert rows[:, 0].tolist() == [0]
        assert scores.shape == (1, 2)
        grown = Database.load("tiny/resnet18")
        assert grown.add(given, "new").tolist() == [24]
        assert (len(grown), sum(map(len, grown.parts))) == (25, 25)
        assert grown.index["class"].iloc[24] == "new"
        assert grown.index["path"].iloc[24] == (FILE if name in ("text", "path") else "")
        grown.save(tmp_path / "saved")
        loaded = Database.load(tmp_path / "saved")
        np.testing.assert_allclose(loaded.embedding(24), database.embedding(0), atol=1e-5)


def test_bytes_that_are_cut_off(database: Database):
    content = Path(FILE).read_bytes()[:-200]
    for given, name in ((content, f"{len(content):,} bytes"), (io.BytesIO(content), "open file")):
        with pytest.raises(
            ValueError, match=rf"^{name}: not readable as an image: image file is truncated; replace it$"
        ):
            database.search(given, 1)


def test_an_open_file_stays_open(database: Database):
    with open(FILE, "rb") as file:
        assert database.search([file, Path(FILE).read_bytes()], 1)[1].tolist() == [[0], [0]]
        assert file.seek(0) == 0


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


def test_several_in_any_form(database: Database):
    files = [f"raw/pictures/{row}.png" for row in range(16, 19)]
    embedded = [np.array(row) for row in database.parts[0][:3]]
    for given in (files, tuple(files), np.array(files), pd.Series(files), iter(files), embedded, np.stack(embedded)):
        assert database.search(given, 1)[1].tolist() == [[0], [1], [2]]
    assert database.add(np.stack([database.image(row) for row in range(3)])).tolist() == [24, 25, 26]
    assert database.add([]).tolist() == []
    assert database.encoder.embed(files[0]).shape == (1, 8)


def test_an_opened_image_is_embedded_as_its_file(database: Database, tmp_path: Path):
    """Rotated by EXIF, transparent, 16-bit grey: what Pillow alone converts to other pixels."""
    pixels = database.image(5)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "exif.jpg", exif=exif)
    alpha = np.where(pixels.mean(2) > 120, 0, 255).astype(np.uint8)
    Image.fromarray(np.dstack([pixels, alpha])).save(tmp_path / "clear.png")
    Image.fromarray((pixels.mean(2) * 257).astype(np.uint16)).save(tmp_path / "deep.png")
    for name in ("exif.jpg", "clear.png", "deep.png"):
        with Image.open(tmp_path / name) as opened:
            np.testing.assert_array_equal(database.embed(opened), database.embed(tmp_path / name), err_msg=name)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "image: found NoneType, expected a file, its bytes, an opened image or"),
        (7, "image: found int"),
        ([7], "image: found int"),
        ([[FILE]], "image: found list"),
        (np.zeros((12, 12), np.uint8), r"image: found uint8 of shape \(12, 12\)"),
        (np.zeros(3, np.float32), r"shape \(1, 3\), expected \([NQ], 8\)"),
        (np.float32(3), "image: found float32"),
        (np.array(3.0), r"shape \(1, 1\), expected \([NQ], 8\)"),
        ("raw/pictures", "image not found"),
        (np.zeros((9, 9, 3)), r"images: found float64 of shape \(9, 9, 3\), expected \(H, W, 3\) uint8 from 0 to 255"),
        (np.zeros((2, 9, 9, 3), np.float32), r"images: found float32 of shape \(2, 9, 9, 3\)"),
        (np.full((1, 8), np.nan, np.float32), "found a value that is not finite"),
        (io.BytesIO(b"a\nb"), "^open file: not readable as an image, expected one of JPEG, PNG"),
        (b"", "^0 bytes: not readable as an image, expected one of JPEG, PNG"),
        (io.StringIO("text"), "image: found StringIO, expected a file, its bytes, an opened image"),
        (Path("raw/pictures/3.png").read_bytes, "image: found method"),
    ],
)
def test_what_is_no_image(database: Database, given, message: str):
    for use in (database.add, lambda given: database.search(given, 1)):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            use(given)
    assert (len(database), sum(map(len, database.parts))) == (24, 24)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("ab", "classes: found 1, expected 2, one per image"),
        (["a"], "classes: found 1, expected 2"),
        (["a", 7], "classes: found 7, expected a name"),
        (7, "classes: found 7, expected a name per image"),
        (float("nan"), "classes: found nan, expected a name per image"),
        (["a", "b "], "classes: found 'b ', expected a class name without spaces around it"),
        (["BMW", "bmw"], "classes: found the class 'bmw', which differs only in case from 'BMW'"),
        (["", "u+0416"], "classes: found the class 'u.0416', which differs only in case from 'U.0416'"),
        (["a", "b\x1b"], r"classes: found the character \\x1b"),
    ],
)
def test_classes_keep_the_rules_of_a_data_set(database: Database, classes, message: str):
    with pytest.raises(ValueError, match=message):
        database.add([FILE, FILE], classes)
    assert (len(database), len(database.parts)) == (24, 1)


def test_an_accent_of_a_class_is_kept_in_one_form(database: Database):
    database.add([FILE, FILE, FILE], ["cafe\u0301", "caf\u00e9", None])
    assert database.index["class"].tolist()[-3:] == ["caf\u00e9", "caf\u00e9", ""]


@pytest.mark.parametrize("k", [1.5, "3", None, True])
def test_the_number_of_results_is_a_whole_one(database: Database, k):
    with pytest.raises(ValueError, match="number of results: found .*, expected a whole number"):
        database.search(FILE, k)


def test_index_and_embeddings_that_differ_are_not_saved(database: Database, tmp_path: Path):
    database.index = database.index.iloc[:-1]
    with pytest.raises(ValueError, match="index: found 23 rows, expected 24, one per embedding"):
        database.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_rows_to_leave_out_are_one_per_query(database: Database):
    with pytest.raises(ValueError, match=r"exclude: found the shape \(1,\), expected \(2,\), a row per query"):
        database.search(database.parts[0][:2], 1, exclude=[0])
    assert database.search(database.parts[0][:2], 1, exclude=[0, -1])[1][1] == [1]


@pytest.mark.parametrize("kind", approximate.KINDS)
def test_faiss_against_exact(kind: str):
    pytest.importorskip("faiss", reason="faiss is an optional dependency: pip install faiss-cpu")
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(50, 32))
    gallery = (centres[np.arange(3000) % 50] + 0.3 * generator.normal(size=(3000, 32))).astype(np.float32)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    index = pd.DataFrame({"path": [""] * 3000, "class": "", "row": -1})
    database = Database(gallery, index, {})
    exclude = np.arange(20)
    exact = database.search(gallery[:20], 10, exclude)
    scores, rows = approximate.Index(kind, database.parts).search(gallery[:20], 10, exclude)
    assert not (rows == exclude[:, None]).any()
    assert (np.diff(scores, axis=1) <= 0).all()
    assert approximate.agreement(exact[1], rows) >= {"flat": 1, "hnsw": 0.95, "ivfpq": 0.4}[kind]


def test_faiss_errors():
    pytest.importorskip("faiss", reason="faiss is an optional dependency: pip install faiss-cpu")
    few = [np.zeros((10, 4), np.float32)]
    with pytest.raises(ValueError, match="expected one of flat, ivfpq, hnsw"):
        approximate.Index("tree", few)
    with pytest.raises(ValueError, match="expected at least 256"):
        approximate.Index("ivfpq", few)


def test_agreement_by_hand():
    assert approximate.agreement(np.array([[1, 2], [3, 4]]), np.array([[2, 9], [4, 3]])) == 0.75


def test_a_database_carries_its_model(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Moved to where nothing else of its project is, saved again there, and without what it needs."""
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    Database.load("tiny/resnet18").save("saved", with_model=True)
    assert sorted(path.name for path in Path("saved").iterdir()) == [
        "database.json",
        "embeddings.npy",
        "index.csv",
        "model",
    ]
    shutil.copy("raw/pictures/16.png", tmp_path / "photo.png")
    Path("saved").rename(tmp_path / "moved")
    shutil.rmtree(tmp_path / "project")
    monkeypatch.chdir(tmp_path)
    for place in ("moved", "moved", "copied"):  # over itself, and at a third place
        database = Database.load("moved")
        assert database.search("photo.png", 1)[1] == [[0]]
        database.save(place)
    shutil.rmtree("moved")
    database = Database.load("copied")
    assert database.search("photo.png", 1)[1] == [[0]]
    assert database.image(0) is None
    Path("copied/model/notes.txt").touch()
    with pytest.raises(ValueError, match=r"copied/model: found notes\.txt, expected"):
        database.save("copied")
    shutil.rmtree("copied/model")
    with pytest.raises(
        FileNotFoundError, match=r"copied/model/model\.safetensors: not found, the model .*with_model=True"
    ):
        Database.load("copied").search("photo.png", 1)
    with pytest.raises(FileNotFoundError, match="not found, the model"):
        database.save("again")
    assert not Path("again").exists()


def test_a_model_is_carried_only_if_it_is_the_databases(database: Database, tmp_path: Path):
    database.facts["weights"] = "0" * 64
    with pytest.raises(ValueError, match="found other weights"):
        database.save(tmp_path / "saved", with_model=True)
    bare = Database(np.array(database.parts[0]), database.index, {})
    with pytest.raises(ValueError, match="names no model"):
        bare.save(tmp_path / "saved", with_model=True)


def test_an_encoder_needs_its_model_alone(database: Database, tmp_path: Path):
    shutil.copytree("models/tiny/resnet18", tmp_path / "mine")
    for encoder in (Encoder(str(tmp_path / "mine")), Encoder(tmp_path / "mine", "squash")):
        np.testing.assert_allclose(encoder.embed("raw/pictures/16.png"), database.parts[0][:1], atol=1e-5)
    config = json.loads((tmp_path / "mine/config.json").read_text())
    del config["resize"]
    (tmp_path / "mine/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"mine: found resize None, expected squash or crop"):
        Encoder(tmp_path / "mine")


def test_arguments_of_an_encoder_are_checked_at_once(database: Database, tmp_path: Path):
    with pytest.raises(ValueError, match="^kind: found 'feature', expected one of logits, features$"):
        Encoder("models/tiny/resnet18", kind="feature")
    digest = hashing.of_file(Path("models/tiny/resnet18") / saved.MODEL)
    fitted = reduction.Reduction(torch.zeros(8), torch.eye(8)[:, :3].contiguous())
    reduction.save(tmp_path / "own", fitted, {"kind": "logits", "model": digest})
    assert Encoder("models/tiny/resnet18", reduced=tmp_path / "own").embed(FILE).shape == (1, 3)
    with pytest.raises(ValueError, match=r"own: reduces embeddings of kind 'logits', found 'features'; pass that"):
        Encoder("models/tiny/resnet18", kind="features", reduced=tmp_path / "own")
    reduction.save(tmp_path / "other", fitted, {"kind": "logits", "model": "0" * 64})
    with pytest.raises(ValueError, match=r"other: was fitted to another model \(SHA-256 0{16}\) than models/tiny"):
        Encoder("models/tiny/resnet18", reduced=tmp_path / "other")


def test_the_threshold_of_the_page(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    """Of four classes on a line, one has two first results of another class, which are the least similar."""
    text = (root / "docs/retrieval.md").read_text(encoding="utf-8").partition("## When nothing matches")[2]
    program = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    angles = np.array([0, 2, 30, 33, 60, 64, 90, 100, 94.9])
    embeddings = np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], 1).astype(np.float32)
    index = pd.DataFrame({"path": "", "class": list("aabbccdde"), "row": -1})
    monkeypatch.setattr(Database, "load", lambda *_: Database(embeddings, index, {}))
    exec(program, found := {})
    assert found["threshold"] == np.float32(found["first"][4])
    assert capsys.readouterr().out == (
        "from 0.998 on, 100.0% of the first results are right\n"
        "66.7% of the queries have one, 0.0% if their class is not there\n"
    )

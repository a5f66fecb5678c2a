"""Where tables of a database are written: after failures, over other content, at addresses of LanceDB."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
from exported import SUFFIX, lancedb, make, read
from moto.server import ThreadedMotoServer
from turns import require_turn

from lrec.__main__ import main as lrec
from lrec.retrieve import Database, gallery


@pytest.mark.parametrize("form", gallery.FORMATS)
def test_what_cannot_be_written_leaves_nothing(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gallery, "BATCH_BYTES", 1)
    target = f"{tmp_path}/out/t{SUFFIX[form]}"
    strange = make(names=["a", "b\udcff"])
    with pytest.raises(ValueError, match=r"^row 0: its class, 'b\\udcff', is not Unicode text$"):
        gallery.export(strange, form, target, "")
    database = make()
    database.parts[0][3, 1] = np.inf
    with pytest.raises(ValueError, match="^row 3: its embedding is not finite; embed it again$"):
        gallery.export(database, form, target, "")
    assert list((tmp_path / "out").iterdir()) == []
    good = make()
    gallery.export(good, form, target, "")
    with pytest.raises(ValueError, match="not finite"):
        gallery.export(database, form, target, "")
    assert read(form, target)[1]["path"] == good.index["path"].tolist()


KILLED = """
import os, signal, sys
import exported
from lrec.retrieve import gallery

whole = gallery._batches
def batches(database, schema):
    for number, batch in enumerate(whole(database, schema)):
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield batch
gallery._batches, gallery.BATCH_BYTES = batches, 12
gallery.export(exported.make(), *sys.argv[1:], "made")
"""


@pytest.mark.parametrize("form", ["lancedb", pytest.param("parquet", marks=pytest.mark.slow)])
def test_a_killed_export_leaves_no_table(form: str, tmp_path: Path, root: Path):
    """Neither under its name nor under one that LanceDB lists; the next export removes what it left."""
    target = tmp_path / f"t{SUFFIX[form]}"
    paths = os.pathsep.join([str(root), str(root / "tests/support")])
    command = [sys.executable, "-c", KILLED, form, str(target)]
    for before in (False, True):
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert target.exists() == before
        assert lancedb.connect(tmp_path).list_tables().tables == (["t"] if before and form == "lancedb" else [])
        gallery.export(make(), form, str(target), "made")
        assert [path.name for path in tmp_path.iterdir()] == [target.name]
        assert len(read(form, target)[1]["path"]) == 5


@pytest.mark.parametrize("form", gallery.FORMATS)
def test_exports_into_one_folder_take_turns(form: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """However the folder is named; nothing is left in the current one."""
    command = ["export-gallery", "tiny/resnet18", "--to", form, "--output"]
    require_turn(tmp_path / f"t{SUFFIX[form]}", lambda: lrec([*command, f"../t{SUFFIX[form]}"]))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["project", f"t{SUFFIX[form]}"]
    assert not Path(".lrec").exists()


@pytest.mark.parametrize("form", gallery.FORMATS)
def test_other_content_is_not_overwritten(project: Path, form: str, capsys: pytest.CaptureFixture):
    suffix = SUFFIX[form]

    def refused(target: str) -> str:
        assert lrec(["export-gallery", "tiny/resnet18", "--to", form, "--output", target]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"error: {target}: found " in error
        assert "not overwritten; delete it, or name another with --output" in error
        return error

    Path(f"notes{suffix}").write_text("mine")
    Path(f"folder{suffix}").mkdir()
    Path(f"folder{suffix}/notes.txt").touch()
    Path(f"link{suffix}").symlink_to("nowhere")
    foreign = make()
    table = next(gallery._batches(foreign, gallery._schema(foreign, ""))).to_pandas()
    if form == "parquet":
        table.to_parquet("foreign.parquet")
    else:
        lancedb.connect(".").create_table("foreign", table[["path", "class"]])
    for name in ("notes", "folder", "link", "foreign"):
        assert "something that lrec export-gallery did not write" in refused(name + suffix)
    assert Path(f"notes{suffix}").read_text() == "mine"
    gallery.export(foreign, form, f"other{suffix}", "other")
    assert "found the export of 'other', split None" in refused(f"other{suffix}")
    gallery.export(Database.load("tiny/resnet18", "train"), form, f"train{suffix}", "tiny/resnet18")
    assert "found the export of 'tiny/resnet18', split 'train'" in refused(f"train{suffix}")
    Path(f"linked{suffix}").symlink_to(f"train{suffix}")
    assert f"found a symbolic link to {project}/train{suffix}, which" in refused(f"linked{suffix}")
    if form == "lancedb":
        gallery.export(Database.load("tiny/resnet18"), form, "grown.lance", "tiny/resnet18")
        grown = lancedb.connect(".").open_table("grown")
        grown.add(grown.to_arrow().slice(0, 2))
        assert "an export that has 26 rows now and had 24" in refused("grown.lance")
        assert grown.count_rows() == 26


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a server that speaks the protocol of S3; its address and credentials are in the environment."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        boto3.client("s3", endpoint_url=settings["AWS_ENDPOINT"]).create_bucket(Bucket="galleries")
        yield "s3://galleries"
    server.stop()


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_at_an_address(
    kind: str,
    bucket: str,
    project: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    """LanceDB writes by itself: a failed export leaves no table that opens, or the earlier one."""
    place = {"file": f"file://{tmp_path}/place", "s3": f"{bucket}/place"}[kind]
    address = f"{place}/t.lance"
    command = ["export-gallery", "tiny/resnet18", "--to", "lancedb", "--output", address]
    whole = gallery._batches

    def fails(database: Database, schema):
        yield next(whole(database, schema))
        raise ValueError("row 1: fails")

    monkeypatch.setattr(gallery, "_batches", fails)
    assert lrec(command) == 1
    assert capsys.readouterr().err == "error: row 1: fails\n"
    with pytest.raises(ValueError, match="not found"):
        lancedb.connect(place).open_table("t")
    monkeypatch.setattr(gallery, "_batches", whole)
    for _ in range(2):
        assert lrec(command) == 0
    monkeypatch.setattr(gallery, "_batches", fails)
    assert lrec(command) == 1
    table = lancedb.connect(place).open_table("t")
    assert table.count_rows() == 24
    found = table.search(Database.load("tiny/resnet18").embedding(3)).limit(1).to_list()
    assert found[0]["path"] == Database.load("tiny/resnet18").index["path"][3]
    capsys.readouterr()
    monkeypatch.setattr(gallery, "_batches", whole)
    table.add(table.to_arrow().slice(0, 1))
    assert lrec(command) == 1
    assert f"error: {address}: found an export that has 25 rows now" in capsys.readouterr().err


def test_a_bucket_that_is_not_there(bucket: str, project: Path, capsys: pytest.CaptureFixture):
    address = "s3://elsewhere/t.lance"
    assert lrec(["export-gallery", "tiny/resnet18", "--to", "lancedb", "--output", address]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {address}: lancedb cannot use it (")
    assert line.endswith("correct the address, its credentials or permissions")


@pytest.mark.parametrize(
    ("form", "target", "message"),
    [
        ("parquet", "a.lance", r"a\.lance: found no name that ends in \.parquet"),
        ("lancedb", "a", r"a: found no name that ends in \.lance"),
        ("parquet", "s3://bucket/a.parquet", r"s3://bucket/a\.parquet: not a path; .* or use --to lancedb"),
        ("lancedb", "two words.lance", "found the name 'two words', expected letters, digits"),
        ("lancedb", ".hidden.lance", "found the name '.hidden', expected"),
        ("lancedb", "s3://bucket.lance", "s3://bucket.lance: found no folder in front of the name"),
        ("lancedb", "nothing://bucket/a.lance", "nothing://bucket/a.lance: lancedb cannot use it"),
    ],
)
def test_targets(project: Path, form: str, target: str, message: str, capsys: pytest.CaptureFixture):
    assert lrec(["export-gallery", "tiny/resnet18", "--to", form, "--output", target]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)

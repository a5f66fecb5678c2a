"""The report's page: complete, self-contained, escaped, deterministic; and opened in a real browser."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import Tags, open_page
from retrieval_project import make

from lrec import paths, reference
from lrec.data import store
from lrec.evaluation import examples, task
from lrec.report import benchmarks, figures, ledger, page


@pytest.fixture(scope="module")
def rendered(root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a small project, whose class and file names are hostile."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make(root, folder)
        (folder / "examples").mkdir()
        packed = store.open_store(paths.store("tiny"))
        packed.index["path"] = packed.index["path"] + "\"><script>alert('x')</script>"
        searched = task.read(paths.embeddings("tiny", "resnet18"), packed.index)
        examples.make(searched, packed, folder / "examples", 3, 8)
        found = json.loads((folder / "examples" / paths.EXAMPLES).read_text(encoding="utf-8"))
        known = ledger.read(root / "metrics/benchmarks.json")
        name, result = next(iter(known["glyphs"].items()))
        result |= {
            "analysis": {
                "images": 1088,
                "agreement": 0.4,
                "ensemble_size": [
                    {"branches": m, "recall_at_1": 50.0 + m, "recall_at_1_spread": 1.5 if m < 4 else 0.0}
                    for m in (1, 2, 4)
                ],
                "compression": [{"code": f"code of {b}", "bytes": b, "recall_at_1": 60.0 + b} for b in (4, 8, 32)],
            }
        }
        known["glyphs"][name]["run"] = {
            "seconds": 754,
            "device": "CPU",
            "machine": "x",
            "commit": "0123456789ab+",
        }
        larger = {"kind": "features", "settings": result["settings"] | {"ensemble_size": 16}, "analysis": {}}
        ledger.upsert(known, result | larger, None)
        history = pd.DataFrame({"epoch": ["1", "2"], "loss": ["2.5", "1.25"], "accuracy": ["0.1", "0.5"]})
        shown = page.Listed(result, history, found, folder / "examples")
        figures.comparison(folder / "sop.png", ("sop",), root / "data/reference", {})
        tables = benchmarks.tables(known, root / "data/reference")
        once, again = (page.render([shown], known, tables, [folder / "sop.png"]) for _ in range(2))
    assert once == again
    return once


def test_nothing_is_loaded_from_elsewhere(rendered: str):
    for tag, attributes in Tags(rendered).tags:
        assert tag not in ("script", "iframe", "object", "embed")
        for name in ("src", "href"):
            if name in attributes:
                assert attributes[name].startswith(("data:", "#")), attributes[name][:80]
    assert not re.search(r"url\(|@import", rendered)


def test_names_are_escaped(rendered: str):
    assert "<script" not in rendered
    assert "a <b>&c" in Tags(rendered).words
    assert any(
        "<script>alert('x')</script>" in (attributes.get("title") or "") for _, attributes in Tags(rendered).tags
    )


def test_what_it_shows(rendered: str):
    words = " ".join(Tags(rendered).words.split())
    for text in ("95 % interval", "Training loss", "Recall@K", "Hardest queries", "Typical queries", "clean reference"):
        assert text in words
    for text in ("Recall@1 by ensemble size", "Recall@1 by bytes", "12 min 34 s", "0123456789+", "529,365,376"):
        assert text in words
    head = words[words.index("95 % interval") : words.index("Training loss")]
    assert all(title in head for title in ledger.EARLIER.values())
    assert all(name in words for name in reference.VARIANTS)
    assert "resnet18 (M=16, features)" in words[words.index("Comparison") : words.index("95 % interval")]
    tiles = [
        attributes["class"] for tag, attributes in Tags(rendered).tags if "tile" in (attributes.get("class") or "")
    ]
    assert tiles.count("tile query") == 3 + 3
    assert tiles.count("tile right") + tiles.count("tile wrong") == 8 * 6


def test_hardest_and_typical_queries():
    best_rank = np.array([1, 9, 7, 0, 3, 5, 1])
    labels = np.array(["a", "a", "a", "b", "b", "c", "d"])
    chosen = examples.choose(best_rank, labels, 3)
    assert chosen["hardest"].tolist() == [1, 5, 4]
    assert len(set(chosen["typical"].tolist())) == 3
    assert examples.choose(best_rank, labels, 10)["typical"].tolist() == list(range(7))
    assert examples.choose(best_rank, labels, 10)["hardest"].tolist() == [1, 5, 4, 6]


def test_examples_of_queries_and_gallery(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    make(root, tmp_path)
    (tmp_path / "out").mkdir()
    packed = store.open_store(paths.store("shop"))
    examples.make(task.read(paths.embeddings("shop", "resnet18"), packed.index), packed, tmp_path / "out", 2, 99)
    found = json.loads((tmp_path / "out" / paths.EXAMPLES).read_text(encoding="utf-8"))
    assert (found["queries"], found["searched"]) == (16, 24)
    for query in found["sections"]["hardest"] + found["sections"]["typical"]:
        assert len(query["results"]) == 24
        ranks = [rank for rank, result in enumerate(query["results"], start=1) if result["right"]]
        assert query["best_rank"] == ranks[0]
        assert all(r["right"] == (r["class"] == query["class"]) for r in query["results"])
        assert (tmp_path / "out" / query["image"]).is_file()


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_in_a_browser(rendered: str, tmp_path: Path, width: int):
    found = open_page(rendered, tmp_path, width)
    assert found["room"] == width
    assert found["images"] > 50
    assert found["found"] == []


@pytest.mark.browser
def test_the_browser_test_can_fail(tmp_path: Path):
    broken = "<!doctype html><body style='margin:0'><div style='width:3000px'>x</div><img alt=gone src=nowhere.png>"
    found = open_page(f"{broken}<script>nothing.at.all()</script></body>", tmp_path, 390)["found"]
    assert [text.split(":")[0] for text in found] == ["error", "error", "missing image", "overflow"]

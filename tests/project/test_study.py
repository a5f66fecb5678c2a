"""The study's runs: budgets become epochs, every parameter exists, and what is done is not run again."""

import itertools
import shlex
import sys
from pathlib import Path

import pandas as pd
import pytest
from dvc.utils.hydra import apply_overrides
from written_commands import Command

from benchmarks import study
from lrec import params, paths
from lrec.io import strict_yaml
from lrec.report import curves, ledger, model_size


@pytest.fixture
def planned(root: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    monkeypatch.chdir(root)
    return strict_yaml.read(study.RUNS)


def runs(planned: dict) -> list[dict]:
    return [*study.runs_of(planned, "choices"), *study.runs_of(planned, "finalists")]


def test_names_are_unique_and_budgets_are_kept(planned: dict):
    assert len({run["name"] for run in runs(planned)}) == len(runs(planned))
    backbone = planned["backbone"]
    for run in runs(planned):
        found, variant = study.settings_of(planned, run), f"variants.{run.get('on', 'car_cropped')}"
        size = found[f"{variant}.image_size"]
        one = study.EPOCHS * model_size.count_macs(backbone, 1, 2, size)
        branches, share = found[f"{variant}.ensemble_size"], found.get("train.share", "layer1")
        epoch = model_size.count_macs(backbone, branches, 2, size, share)
        spent = found[f"{variant}.epochs"] * epoch
        assert abs(spent - run["budget"] * one) <= epoch / 2


def test_every_parameter_that_is_set_exists(planned: dict, root: Path, tmp_path: Path):
    weights = "~/a folder, whose name is long and has a = sign, which was more than a line once/{backbone} (1).pth"
    written = (root / "params.yaml").read_text(encoding="utf-8")
    path = tmp_path / "params.yaml"
    # One run of each kind: applying overrides takes a tenth of a second.
    for run in {(study.set_of(planned, run), *run.get("set", {})): run for run in runs(planned)}.values():
        path.write_text(written, encoding="utf-8")
        (words,) = Command("", shlex.join(study.command(planned, "finalists", run, weights))).parts()
        apply_overrides(path, [word for before, word in itertools.pairwise(words) if before == "-S"])
        variant = run.get("on", "car_cropped")
        found = params.load(path)
        assert found.datasets == [variant], run
        assert found.train.weights == weights
        assert found.variants[variant].epochs == study.settings_of(planned, run)[f"variants.{variant}.epochs"]
    settings = strict_yaml.read(root / "params.yaml")
    for section, _, key in (name.partition(".") for name in planned["held_out"]):
        assert key in settings[section]


def test_a_run_on_another_set(planned: dict):
    run = next(run for run in planned["finalists"] if run.get("on") == "omniglot")
    words = study.command(planned, "finalists", run, "w.pth")
    assert {'datasets=["omniglot"]', '++variants.omniglot.layout="folder"', "++variants.omniglot.image_size=64"} <= {
        *words
    }
    assert not [word for word in words if "car_cropped" in word or "variant." in word]


def test_choices_only_train_and_hold_classes_out(planned: dict):
    run = planned["choices"][1]
    chosen = study.command(planned, "choices", run, "w.pth")
    final = study.command(planned, "finalists", run, "w.pth")
    assert chosen[:4] == ["dvc", "exp", "run", "train@car_cropped-mobilenet_v2"]
    assert final[3:5] == ["-f", "-n"]
    assert "train.validation_share=0.2" in chosen
    assert not [word for word in final if "validation" in word]
    assert 'datasets=["car_cropped"]' in final
    assert 'train.weights="w.pth"' in final


def test_other_seeds_come_last_and_change_nothing_else(planned: dict):
    run = {"name": "a", "set": {"train.loss": "proxy_anchor"}, "seeds": [1, 2]}
    found = study.runs_of({"finalists": [run, {"name": "b", "set": {}}]}, "finalists")
    assert [each["name"] for each in found] == ["a", "b", "a-seed-1", "a-seed-2"]
    assert found[3]["set"] == {"train.loss": "proxy_anchor", "train.seed": 2}
    seeded = next(each for each in runs(planned) if each["name"].endswith("-seed-2"))
    assert "train.seed=2" in study.command(planned, "finalists", seeded, "w.pth")


def test_the_list_says_what_is_done(
    tmp_path: Path, planned: dict, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    first = planned["choices"][0]["name"]
    (tmp_path / "study.csv").write_text(f"name\n{first}\n")
    monkeypatch.setattr(sys, "argv", ["study", "--list", "--table", str(tmp_path / "study.csv")])
    study.main()
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[2] for line in lines] == [run["name"] for run in runs(planned)]
    assert [line[0] for line in lines] == ["done", *["left"] * (len(lines) - 1)]


def test_the_figure_names_what_no_other_run_beats(root: Path, tmp_path: Path):
    costs = [{"cost": cost, "recall": recall} for cost, recall in [(3, 50), (1, 40), (2, 45), (4, 49), (1, 30)]]
    assert [row["cost"] for row in curves.front(costs, "cost", "recall")] == [1, 2, 3]
    runs = [
        ("one", "one network", 1, "proxy_anchor", 1, 1.0, 39.0, 41.5),
        ("one-seed-1", "one network", 1, "proxy_anchor", 1, 1.0, 41.0, 40.5),
        ("four", "ensemble", 4, "cross_entropy", 3, 2.0, 50.0, 47.0),
        ("eight", "ensemble", 8, "proxy_anchor", 6, 3.0, 45.0, 46.0),
    ]
    columns = ["name", "family", "branches", "loss", "budget", "train_tmacs", "recall_at_1", "whitened_recall_at_1"]
    same = {
        "on": "car_cropped",
        "kind": "finalist",
        "classifier": "cosine",
        "embed_mmacs": 9.0,
        "dimensions": 1280,
    }
    known = entries(root)
    ensemble = next(e for e in known.values() if e["embedding"].get("reduce") == "whitened" and e["settings"]["epochs"])
    known["student"] = ensemble | {"settings": ensemble["settings"] | {"teacher": "model.pt2 0", "teacher_macs": 5}}
    shown = study.points(pd.DataFrame(runs, columns=columns).assign(**same), "car_cropped", known)
    labels = {"one network, proxy anchor, 1x", "M=4, cosine, 3x", "M=8, proxy anchor, 6x"}
    assert set(shown[shown["family"].isin(["one network", "ensemble"])]["label"]) == labels
    assert set(shown["family"]) == {"one network", "ensemble", "shipped", "original's loss"}
    average = shown[shown["label"] == "average of the branches"]
    assert {64, 512, 2048} == set(average["bytes"])
    assert average["train_tmacs"].isna().all()
    assert set(average["embed_mmacs"]) == {107.0}
    student = shown[shown["label"] == "student"]
    assert ({64, 512, 2048}, student["train_tmacs"].isna().all()) == (set(student["bytes"]), True)
    for branches in (4, 8):
        assert set(shown[shown["label"] == f"M={branches}, whitened"]["bytes"]) == {64, 512, 2048}
    alone = shown[shown["family"] == "one network"]
    assert alone[["bytes", "recall"]].values.tolist() == [[5120, 40.0], [2048, 41.0]]
    assert len(shown[shown["label"] == "original, M=4"]) == 2
    study.draw(tmp_path / "study.png", shown)
    assert (tmp_path / "study.png").read_bytes().startswith(b"\x89PNG")


def entries(root: Path) -> dict:
    return ledger.read(root / paths.LEDGER)["car_cropped"]

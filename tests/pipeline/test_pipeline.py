"""dvc.yaml tells the truth, and the whole pipeline runs in a clone."""

import json
import os
import re
import runpy
import shutil
import sys
from pathlib import Path

import checkout
import pytest
import yaml
from checkout import call
from imports import closure
from written_commands import of_text

STAGES = ["preprocess", "meta_classes", "train", "embed", "evaluate", "report"]


@pytest.fixture(scope="module")
def pipeline(root: Path) -> dict:
    return yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


def test_the_stages(pipeline: dict):
    assert list(pipeline) == STAGES
    assert all(stage["desc"] for stage in pipeline.values())


@pytest.mark.parametrize("name", STAGES)
def test_deps_are_the_import_closure(pipeline: dict, root: Path, name: str):
    listed = {dep for dep in pipeline[name]["deps"] if dep.startswith(("lrec", "stages"))}
    folders = tuple(f"{dep}/" for dep in listed if (root / dep).is_dir())
    # It holds a docstring alone, as tests/project/test_architecture.py makes sure.
    needed = closure(f"stages/{name}.py", root) - {"lrec/__init__.py"}
    missing = {path for path in needed if path not in listed and not path.startswith(folders)}
    assert not missing, f"dvc.yaml: stage {name} does not list {', '.join(sorted(missing))}"
    idle = {dep for dep in listed if dep not in needed and not any(p.startswith(f"{dep}/") for p in needed)}
    assert not idle, f"dvc.yaml: stage {name} lists {', '.join(sorted(idle))}, which it does not import"


def test_few_dependencies_are_listed(pipeline: dict):
    code = [[dep for dep in stage["deps"] if dep.startswith(("lrec", "stages"))] for stage in pipeline.values()]
    assert max(map(len, code)) <= 13
    assert sum(map(len, code)) < 70


def test_what_trains_depends_on_nothing_that_only_reads_results(pipeline: dict):
    free = {f"lrec/{name}" for name in ("report", "retrieve", "datasets", "metrics", "evaluation")}
    for name in ("train", "embed"):
        assert not free & set(pipeline[name]["deps"])
    assert "lrec/training" in pipeline["train"]["deps"]
    assert "train" in pipeline["train"]["params"]


def params_of(stage: dict) -> set[str]:
    return {name.replace("${item.data}", "VARIANT") for name in stage["params"]} if "params" in stage else set()


def test_parameters_are_listed_finely(pipeline: dict):
    found = {name: params_of(stage) for name, stage in pipeline.items()}
    assert not any("recall_at" in name for stage in STAGES[:4] for name in found[stage])
    assert not any("epochs" in name for stage in STAGES[:2] for name in found[stage])
    assert not any(name in ("datasets", "backbones") for stage in STAGES[:5] for name in found[stage])
    # A grouping that is loaded stays as it is when they change.
    shape = {f"variants.VARIANT.{key}" for key in ("ensemble_size", "meta_class_size")}
    assert shape <= found["meta_classes"] & found["train"]
    # The report says which variants have no effect; it computes nothing from them.
    everything = set().union(*found.values()) - {"variants"}
    settings = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    del settings["machine"]  # no result depends on it
    for section, value in settings.items():
        keys = {f"{section}.{key}" for key in value} if isinstance(value, dict) else {section}
        if section == "variants":
            keys = {f"variants.VARIANT.{key}" for key in value["glyphs"]}
        assert {key for key in keys if key not in everything and section not in everything} == set()


@pytest.fixture(scope="module")
def clone(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git clone that holds the working tree as it is, set to a training of seconds, and run."""
    folder = tmp_path_factory.mktemp("clone") / "lrec with a space"
    checkout.clone(root, folder)
    settings = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    settings["variants"]["glyphs"] |= {"ensemble_size": 2, "meta_class_size": 9, "epochs": 1}
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    checkout.commit(folder, "A training of seconds")
    call(folder, "dvc", "repro")
    return folder


def test_repro_makes_every_artefact(clone: Path):
    result = json.loads((clone / "results/glyphs/resnet18/result.json").read_text())
    flat = json.loads((clone / "metrics/recall.json").read_text())["glyphs"]["resnet18"]
    assert result["queries"] == 1088
    assert result["counts"] == {"train": [2176, 68], "test": [1088, 34]}
    assert flat["recall_at_1"] == round(100 * result["recall"]["1"], 2) > flat["untrained_recall_at_1"]
    assert (clone / "history/glyphs/resnet18.csv").read_text().startswith("epoch,learning_rate,loss,accuracy\n1,")
    ours = f"{100 * result['recall']['1']:.1f}"
    assert re.search(rf"\| resnet18 \(M=2\) +\| {ours} / ", (clone / "metrics/benchmarks.md").read_text())
    assert f", resnet18 (M=2) {ours}" in (clone / "README.md").read_text()
    ledger = json.loads((clone / "metrics/benchmarks.json").read_text())["glyphs"]["resnet18 (M=2)"]
    assert ledger["settings"]["ensemble_size"] == 2
    assert ledger["run"]["commit"] == call(clone, "git", "rev-parse", "HEAD").strip()


def test_repro_leaves_nothing_untracked(clone: Path):
    status = call(clone, "git", "status", "--porcelain").splitlines()
    assert {line[3:] for line in status} <= {
        "README.md",
        "dvc.lock",
        "metrics/benchmarks.json",
        "metrics/benchmarks.md",
        "metrics/ensemble_size.csv",
        "metrics/recall.json",
        "metrics/recall_at_k.csv",
        "metrics/training.csv",
    }
    assert not [line for line in status if line.startswith("??")]


def test_a_second_repro_has_nothing_to_do(clone: Path):
    before = call(clone, "git", "status", "--porcelain")
    assert "Data and pipelines are up to date." in call(clone, "dvc", "repro")
    assert call(clone, "git", "status", "--porcelain") == before


def edited(clone: Path, *modules: str) -> set[str]:
    """Edit the docstrings of some modules; return the stages that `dvc status` then lists."""
    before = {name: (clone / "lrec" / name).read_text(encoding="utf-8") for name in modules}
    for name, text in before.items():
        (clone / "lrec" / name).write_text(text.replace('"""', '"""Edited. ', 1), encoding="utf-8")
    try:
        return {name.partition("@")[0] for name in json.loads(call(clone, "dvc", "status", "--json").splitlines()[-1])}
    finally:
        for name, text in before.items():
            (clone / "lrec" / name).write_text(text, encoding="utf-8")


@pytest.mark.slow  # test_deps_are_the_import_closure checks the same lists
def test_what_an_edited_docstring_costs(clone: Path):
    """Code that reads raw data or results neither trains nor embeds; code that trains does."""
    cheap = ["datasets/check.py", "metrics/recall.py", "evaluation/task.py", "report/page.py", "retrieve/query.py"]
    assert edited(clone, *cheap) == {"preprocess", "evaluate", "report"}
    assert edited(clone, "retrieve/query.py") == set()
    assert edited(clone, "training/loop.py") == {"train"}
    assert edited(clone, "embedding/extract.py") == {"embed", "evaluate"}
    assert edited(clone) == set()


def test_leftovers_of_another_selection_do_not_change_the_lock(clone: Path):
    before = (clone / "dvc.lock").read_bytes()
    for name in ("results/sop/resnet50/result.json", "history/sop/resnet50.csv"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text("left over")
    call(clone, "dvc", "repro")
    assert (clone / "dvc.lock").read_bytes() == before
    assert not (clone / "results/sop/resnet50").exists()


@pytest.mark.slow  # half a minute; test_sessions.py runs these commands too
def test_other_cutoffs_train_nothing_as_the_readme_shows(clone: Path, root: Path):
    """The commands of "Working with experiments", to the letter, but for the last, which takes all of it back."""
    shown = (root / "README.md").read_text(encoding="utf-8").partition("## Working with experiments")[2]
    commands = [command.text for command in of_text("README.md", shown)]
    assert commands[-1] == "git checkout . && dvc checkout"
    done = [(text, call(clone, "bash", "-c", text)) for text in commands[:-1]]
    out = {text[:12]: printed for text, printed in done}
    assert "Running stage 'evaluate@glyphs-resnet18'" in out["dvc exp run "]
    assert "Running stage 'train@glyphs-resnet18'" not in out["dvc exp run "]
    assert "glyphs.resnet18.recall_at_10" in out["dvc metrics "]
    assert "cutoffs" in out["dvc exp show"]
    assert "index.html" in out["dvc plots sh"]
    call(clone, "python", "-m", "stages.report", "--check")


def test_plots_show_the_combinations_of_both_revisions(clone: Path):
    call(clone, "dvc", "plots", "diff", "HEAD", "workspace", "--out", "plots_page")
    text = (clone / "plots_page/index.html").read_text(encoding="utf-8")
    shutil.rmtree(clone / "plots_page")
    specs = [json.loads(line) for line in re.findall(r"var spec = (.*);", text)]
    assert {spec["encoding"]["x"]["field"] for spec in specs} == {"epoch", "k", "branches"}
    for spec in specs:
        assert spec["encoding"]["color"]["field"] == "combination"
        rows = spec["data"]["values"]
        assert {row["rev"] for row in rows} == {"HEAD", "workspace"}
        # HEAD is the committed run of four branches, the workspace this one of two.
        assert {row["combination"] for row in rows} >= {"glyphs/resnet18 (M=2)"}
        assert all(float(row[spec["encoding"][axis]["field"]]) >= 0 for row in rows for axis in "xy")


@pytest.mark.slow  # of small sets, tests/pipeline/test_killed.py compares all bytes
def test_the_same_training_gives_the_same_bytes(clone: Path):
    files = [
        "models/glyphs/resnet18/model.safetensors",
        "embeddings/glyphs/resnet18/test.npy",
        "history/glyphs/resnet18.csv",
    ]
    before = [(clone / name).read_bytes() for name in files]
    call(clone, "python", "-m", "stages.train", "glyphs", "resnet18")
    call(clone, "python", "-m", "stages.embed", "glyphs", "resnet18")
    assert [(clone / name).read_bytes() for name in files] == before


@pytest.mark.slow  # tests/metrics has exact recall in any order of sums
def test_threads_move_no_figure_by_more_than_a_query(clone: Path):
    """Sums in another order differ in their last bits; a figure may follow by one query, no more."""
    path = clone / "results/glyphs/resnet18/result.json"
    before = json.loads(path.read_text())
    other = "2" if os.environ.get("OMP_NUM_THREADS") == "1" else "1"
    call(clone, "python", "-m", "stages.evaluate", "glyphs", "resnet18", OMP_NUM_THREADS=other, MKL_NUM_THREADS=other)
    after = json.loads(path.read_text())
    for part in (lambda result: result, lambda result: result["untrained"]):
        for k, share in part(before)["recall"].items():
            assert abs(part(after)["recall"][k] - share) * before["queries"] <= 1.001
        for name in ("map_at_r", "r_precision"):
            assert abs(part(after)[name] - part(before)[name]) * before["queries"] <= 1


def test_models_travel_through_a_remote(clone: Path, tmp_path: Path):
    config = (clone / ".dvc/config").read_text()
    # With absolute paths: a remote added to one clone is meant for the other as well.
    call(clone, "dvc", "remote", "add", "--default", "storage", str(tmp_path / "storage"))
    call(clone, "git", "add", "-A")
    call(clone, "git", "commit", "--quiet", "-m", "With a remote")
    try:
        call(clone, "dvc", "push", "models/glyphs/resnet18", "embeddings/glyphs/resnet18")
        call(tmp_path, "git", "clone", "--quiet", str(clone), "other")
        call(tmp_path / "other", "dvc", "pull", "embeddings/glyphs/resnet18")
        # As metrics/benchmarks.md says it: dvc get REPOSITORY FOLDER, with the clone for the repository.
        tables = (clone / "metrics/benchmarks.md").read_text()
        assert "\n\nEach folder can be fetched without a clone: dvc get REPOSITORY FOLDER\n\n" in tables
        (folder,) = re.findall(r"^\| glyphs +\| resnet18 \(M=2\) +\| (\S+) +\|$", tables, re.MULTILINE)
        call(tmp_path, "dvc", "get", str(tmp_path / "other"), folder, "--out", "mine")
        for name, copy in (
            ("embeddings/glyphs/resnet18/test.npy", "other/embeddings/glyphs/resnet18/test.npy"),
            ("models/glyphs/resnet18/model.safetensors", "mine/model.safetensors"),
        ):
            assert (tmp_path / copy).read_bytes() == (clone / name).read_bytes()
    finally:
        (clone / ".dvc/config").write_text(config)


def test_retrieval_works_right_after_repro(clone: Path):
    out = call(clone, "python", "-m", "lrec.retrieve", "--output", "out.png")
    (clone / "out.png").unlink()
    assert out.count("query: glyphs/") == 4
    assert "glyphs/resnet18: 1,088 images, 18 dimensions" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stages.preprocess", "nope"], "params.yaml: unknown variant 'nope', expected one of glyphs"),
        (["stages.train", "glyphs", "resnet19"], "unknown backbone 'resnet19', expected one of resnet18"),
        (["stages.meta_classes", "cub_cropped"], "data/processed/cub_cropped/index.csv: not found; run `dvc repro`"),
        (["stages.preprocess", "cub_cropped"], "LREC_DATA"),
    ],
)
def test_bad_input_is_one_line(
    clone: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """tests/pipeline/test_bad_commands.py does so in real processes."""
    monkeypatch.chdir(clone)
    for more, expected in (([], SystemExit), (["--debug"], (ValueError, OSError))):
        monkeypatch.delitem(sys.modules, arguments[0], raising=False)  # another test may have imported it
        monkeypatch.setattr(sys, "argv", [*arguments, *more])
        with pytest.raises(expected) as ended:
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        error = capsys.readouterr().err
        if more:
            assert message in str(ended.value)
        else:
            assert ended.value.code == 1
            assert error.startswith("error: ")
            assert error.count("\n") == 1
            assert message in error

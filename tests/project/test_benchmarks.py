"""Every measurement that the documents name runs as they give it, but at sizes that say nothing about speed."""

import importlib
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from written_commands import everywhere

from benchmarks import gpu, leak, turns
from lrec import paths
from lrec.data import store
from lrec.evaluation import task
from lrec.model import saved

UPTO = "evaluate"
Run = Callable[[str], list[str]]
# What takes the place of the same options, and of all arguments before the first option.
SMALL = {
    "extraction": "--backbones resnet18 --ensembles 2 --size 32 --images 4 --batch-size 2 --rounds 1",
    "extraction --run": "--run tiny/mobilenet_v2 --images 4 --batch-size 2 --rounds 1",
    "gallery": "--rows 400 --width 16 --rounds 1 --ways exact lancedb",
    "gpu": "--device cpu --tiny --parts card waits determinism profile graphs",
    "leak": "tiny mobilenet_v2 --draws 1 --epochs 1 --batch-size 3",
    "loading": "tiny --images 8 --size 32 --batch-size 4 --rounds 1",
    "memory": "--branches 2 --batch-sizes 2 --size 64",
    "packing": "--images 100 200",
    "recall": "--sizes 1100 1200 --width 16 --repeats 1",
    "retrieve": "500 8 --ways exact faiss-flat-binary --rounds 1",
    "study": "--list",
    "subsets": "tiny raw --classes 2 --images 2",
    "training": "--branches 2 --batch-sizes 2 --size 32 --rounds 1 --warmup 0",
}
# The baselines that some of them are measured against.
BASELINES = {
    "extraction --run": ("onnxscript", "onnxruntime"),
    "recall": ("faiss", "pytorch_metric_learning"),
    "retrieve": ("faiss",),
    "gallery": ("lancedb",),
}


# Those that start processes, export networks or build an index: each takes 10 to 30 s.
SLOW = ("extraction", "gallery", "gpu", "loading", "retrieve", "training")
# Their options say what is measured, and not only at which settings.
MODES = ("recall", "leak")


def documented() -> list[str]:
    """The commands of the pages, made small; those that another one contains are left out."""
    found: list[list[str]] = []
    for words in (words for command in everywhere() for words in command.parts()):
        if words[:2] == ["python", "-m"] and words[2].startswith("benchmarks."):
            name = words[2].removeprefix("benchmarks.")
            own = SMALL.get(" ".join([name, *words[3:4]]), SMALL[name]).split()
            kept, dropped = [], True
            for word in words[3:]:
                if word.startswith("--"):
                    dropped = word in own
                if not dropped:
                    kept.append(word)
            found.append([name, *own, *kept])
    every = dict.fromkeys(map(" ".join, found))
    within = {
        text: [other for other in every if other != text and set(text.split()) <= set(other.split())] for text in every
    }
    return [text for text in every if text.split()[0] in MODES or not within[text]]


@pytest.fixture
def run(root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a benchmark in the current folder, in this process; the lines of its tables and figures."""

    def work(arguments: str) -> list[str]:
        name, *options = arguments.split()
        module = f"benchmarks.{name}"
        monkeypatch.setenv("PYTHONPATH", str(root))
        monkeypatch.setattr(sys, "argv", [module, *options])
        monkeypatch.delitem(sys.modules, module, raising=False)
        capfd.readouterr()
        runpy.run_module(module, run_name="__main__", alter_sys=True)  # one that fails raises an error or SystemExit
        return [line for line in capfd.readouterr().out.splitlines() if re.search(r"\d", line)]

    threads = torch.get_num_threads()
    yield work
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "command",
    [pytest.param(c, marks=pytest.mark.slow if c.startswith(SLOW) or "--memory" in c else ()) for c in documented()],
)
def test_it_runs(root: Path, project: Path, command: str, run: Run):
    for baseline in BASELINES.get(command.split()[0], BASELINES.get(" ".join(command.split()[:2]), ())):
        pytest.importorskip(baseline, reason="an optional dependency: pip install -r requirements-dev.txt")
    (project / "docs").mkdir()
    (project / "benchmarks").symlink_to(root / "benchmarks")
    assert len(run(command)) >= 2


@pytest.mark.parametrize("name", sorted({text.split()[0] for text in SMALL}))
def test_its_options_are_shown(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """At least that, where a run is slow: the module and what it imports are there."""
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="^0$"):
        importlib.import_module(f"benchmarks.{name}").main()
    assert "usage: " in capsys.readouterr().out


def test_all_are_run(root: Path):
    measuring = {path.stem for path in (root / "benchmarks").glob("*.py")} - {"__init__", "runtimes", "turns"}
    assert measuring == {name.split()[0] for name in SMALL} == {command.split()[0] for command in documented()}


def test_the_leaks_weight_is_drawn_once_per_batch_and_shared_by_its_images(project: Path):
    network, config = saved.load(paths.model("tiny", "mobilenet_v2"))
    packed = store.open_store(paths.store("tiny"))
    trial = leak.Trial(packed, config["normalization"], 3, "cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        weights = leak.RandomWeights(network, 1.0, seed=0)
        drawn = []
        network.stem.register_forward_hook(lambda *_: drawn.append(weights.weights))
        trial._embed(network, trial.rows)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert len(drawn) == -(-len(trial.rows) // 3)
    assert all(float(weight.sum()) == pytest.approx(network.ensemble_size) for weight in drawn)
    assert len({tuple(weight.tolist()) for weight in drawn}) == len(drawn)


def test_without_the_weight_the_leaks_figure_is_the_published_one(project: Path):
    network, config = saved.load(paths.model("tiny", "mobilenet_v2"))
    trial = leak.Trial(store.open_store(paths.store("tiny")), config["normalization"], 3, "cpu")
    index = store.read_index(paths.store("tiny") / store.INDEX)
    expected = 100 * task.read(paths.embeddings("tiny", "mobilenet_v2"), index).evaluate([1]).recall[1]
    assert trial.row(network, 0, 1)[:2] == [expected, expected]


@pytest.mark.parametrize("in_turns", [True, False])
def test_a_way_whose_memory_runs_out_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_turns: bool
):
    code = "import sys\nfor _ in sys.stdin: print({answer!r}, flush=True)\n"
    for name, answer in (("good", "1 2"), ("full", turns.NO_MEMORY)):
        (tmp_path / f"way_{name}.py").write_text(code.format(answer=answer))
    monkeypatch.chdir(tmp_path)
    found = turns.take({"full": ["way_full"], "good": ["way_good"]}, 2, in_turns)
    assert found == {"full": None, "good": [[1.0, 2.0], [1.0, 2.0]]}


def test_out_of_memory_is_an_answer_and_other_errors_are_not(capsys):
    def refuse() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    turns.answering(refuse)
    assert capsys.readouterr().out == f"{turns.NO_MEMORY}\n"
    with pytest.raises(ZeroDivisionError):
        turns.answering(lambda: 1 // 0)


def test_parts_of_the_gpu_benchmark_that_succeeded_are_not_run_again(tmp_path: Path, monkeypatch, capsys):
    asked = []
    answers = {"card": "a table\n", "waits": f"{turns.NO_MEMORY}\n"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu, "run", lambda name, *_: (asked.append(name), answers[name])[1])
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["gpu", "--device", "cpu", "--parts", "card", "waits"])
        gpu.main()
    assert asked == ["card", "waits", "waits"]
    assert capsys.readouterr().out.count("### Card\n\na table\n") == 2

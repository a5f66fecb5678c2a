"""Other runtimes embed as torch does, resume their own work alone, and say which package is missing."""

import json
import shutil
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

from lrec import paths, schema
from lrec.data import store
from lrec.data.batches import Images
from lrec.embedding import audit, batch_norm, extract, graph, journal, reduction, runtimes
from lrec.embedding.extract import Options
from lrec.io import command
from lrec.model.ensemble import Ensemble
from lrec.retrieve import Database
from stages import embed as embed_stage
from stages import evaluate as evaluate_stage

RUN = ("glyphs", "resnet18")


@pytest.fixture(scope="module", params=list(runtimes.RUNTIMES))
def runtime(request: pytest.FixtureRequest) -> str:
    for package in (*graph.PACKAGES, request.param):
        pytest.importorskip(package, reason="optional: pip install -r requirements-extra.txt")
    return request.param


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of the project's network, which takes seconds to write; tests let the stage find it instead."""
    for package in graph.PACKAGES:
        pytest.importorskip(package, reason="optional: pip install -r requirements-extra.txt")
    folder = tmp_path_factory.mktemp("graph")
    graph.write(graph.Embedding(batch_norm.fold(Ensemble("resnet18", 1, 5)), store.IMAGENET), 32, folder)
    return folder


@pytest.fixture
def quick(written: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Copy the graph instead of writing it; the list has the folders it was put into."""
    found: list[Path] = []

    def copy(network: graph.Embedding, image_size: int, folder: Path) -> None:
        shutil.copytree(written, folder, dirs_exist_ok=True)
        found.append(folder)

    monkeypatch.setattr(graph, "write", copy)
    return found


def choose(project: Path, runtime: str, **others: str) -> None:
    path = project / "params.yaml"
    text = path.read_text(encoding="utf-8")
    for key, value in {"runtime": runtime, **others}.items():
        line = next(line for line in text.split("\nembed:")[1].splitlines() if line.startswith(f"  {key}:"))
        text = text.replace(line, f"  {key}: {value}", 1)
    path.write_text(text, encoding="utf-8")


def test_the_names_are_those_of_params_yaml():
    assert get_args(schema.Embed.model_fields["runtime"].annotation) == (runtimes.TORCH, *runtimes.RUNTIMES)


@pytest.mark.usefixtures("two_threads")
def test_a_reduction_is_in_the_graph(runtime: str, tiny_store: store.Store, tmp_path: Path):
    """Pooled features of a network whose batch norms hold statistics; batches of four and one, on two threads."""
    network = Ensemble("mobilenet_v2", 1, 5)
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    fitted = reduction.Reduction(torch.rand(1280) / 50, torch.linalg.qr(torch.randn(1280, 6)).Q)
    images, options = (
        Images(tiny_store.images, np.arange(9), **store.IMAGENET),
        Options("features", 4, reduction=fitted),
    )
    expected, found = np.empty((9, 6), np.float32), np.empty((9, 6), np.float32)
    extract.extract(batch_norm.fold(network), images, expected, options)
    graph.write(graph.Embedding(network, store.IMAGENET, "features", fitted), 32, tmp_path)
    opened = runtimes.Exported(tmp_path / graph.FILE, runtime)
    assert opened.width("features") == 6
    extract.extract(opened, images, found, options)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_openvino_rounds_to_bfloat16_only_if_told(written: Path, tiny_store: store.Store):
    pytest.importorskip("openvino", reason="optional: pip install -r requirements-extra.txt")
    found = {"torch": np.empty((9, 5), np.float32)}
    images = Images(tiny_store.images, np.arange(9), **store.IMAGENET)
    extract.extract(Ensemble("resnet18", 1, 5), images, found["torch"], Options())
    for precision in ("float32", "bfloat16"):
        found[precision] = np.empty((9, 5), np.float32)
        opened = runtimes.Exported(written / graph.FILE, "openvino", precision)
        extract.extract(opened, images, found[precision], Options())
    np.testing.assert_allclose(found["float32"], found["torch"], rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["bfloat16"], found["torch"], rtol=0, atol=0.1)


def test_the_stage_and_the_search(runtime: str, project: Path, monkeypatch: pytest.MonkeyPatch, quick: list[Path]):
    """Embedded, checked and searched by the runtime; embedding.json says which it was."""
    monkeypatch.chdir(project)
    folder = paths.embeddings(*RUN)
    found = {}
    for name in ("torch", runtime):
        choose(project, name)
        embed_stage.main(*RUN)
        found[name] = np.load(folder / "test.npy")
    np.testing.assert_allclose(found[runtime], found["torch"], rtol=0, atol=1e-5)
    facts = json.loads(paths.embedding_facts(*RUN).read_text())
    assert facts["runtime"] == runtime
    assert facts["runtime_version"] == runtimes.require(runtime)
    assert facts["audit"]["largest"] < 1e-5
    assert len(quick) == 1
    monkeypatch.setattr(Ensemble, "embed", lambda *arguments: pytest.fail("torch was used"))
    database = Database.load("glyphs/resnet18")
    database.save("mine", with_model=True)
    pixels = store.open_store(paths.store("glyphs")).images[30:35]
    for each in (database, Database.load("mine")):
        np.testing.assert_allclose(each.embed(list(pixels)), found[runtime][:5], rtol=0, atol=1e-5)


@pytest.mark.parametrize("reduce", ["none", pytest.param("whitened", marks=pytest.mark.slow)])  # writes four graphs
def test_in_8_bits(
    runtime: str,
    reduce: str,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    request: pytest.FixtureRequest,
):
    """Embedded in int8, and searched with the very graph, which a saved database takes along."""
    pytest.importorskip("onnxruntime", reason="optional: pip install -r requirements-extra.txt")
    if reduce == "none":
        request.getfixturevalue("quick")  # whose graph has no reduction
    monkeypatch.chdir(project)
    folder, found = paths.embeddings(*RUN), {}
    for precision in ("float32", "int8"):
        choose(project, runtime, precision=precision, reduce=reduce, dimensions="4")
        embed_stage.main(*RUN)
        found[precision] = np.load(folder / "test.npy")
    assert (found["int8"] * found["float32"]).sum(1).min() > 0.8
    assert np.abs(found["int8"] - found["float32"]).max() > 1e-4
    facts = json.loads(paths.embedding_facts(*RUN).read_text())
    assert facts["precision"] == "int8"
    assert facts["audit"]["largest"] < 1e-6
    assert (folder / graph.FILE).stat().st_size < 0.3 * (paths.model(*RUN) / "model.safetensors").stat().st_size

    database = Database.load("glyphs/resnet18")
    database.save("mine", with_model=True)
    shutil.move("mine", tmp_path / "mine")
    taken = Database.load(tmp_path / "mine")
    pixels = store.open_store(paths.store("glyphs")).images[30:35]
    for each in (database, taken):
        np.testing.assert_allclose(each.embed(list(pixels)), found["int8"][:5], rtol=0, atol=1e-6)
    with monkeypatch.context() as patch:  # what writes graphs is not needed to open one
        patch.setitem(sys.modules, "onnxscript", None)
        np.testing.assert_array_equal(Database.load(tmp_path / "mine").embed(list(pixels)), taken.embed(list(pixels)))
    taken.save(tmp_path / "again")
    assert Database.load(tmp_path / "again").embed(list(pixels)).shape == (5, found["int8"].shape[1])

    kept = (folder / graph.FILE).read_bytes()
    (folder / graph.FILE).write_bytes(kept + b"\0")
    with pytest.raises(ValueError, match=r"model\.onnx: found another graph .* than the embeddings were made with"):
        Database.load("glyphs/resnet18").embed(list(pixels))
    (folder / graph.FILE).unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.onnx: not found; run `dvc repro` \(stage embed\) first"):
        Database.load("glyphs/resnet18").embed(list(pixels))


def test_no_digest_is_a_setting_of_a_result():
    """They differ from machine to machine, and results are compared."""
    hints = get_type_hints(audit.Facts, include_extras=True)
    digests = {name for name, hint in hints.items() if "0-9a-f" in repr(hint)}
    assert digests == {"data", "graph", "reduction", "weights"}
    assert digests < set(evaluate_stage.DIGESTS)


def test_unfinished_work_is_resumed_by_the_same_runtime_alone(
    project: Path, monkeypatch: pytest.MonkeyPatch, quick: list[Path]
):
    pytest.importorskip("onnxruntime", reason="optional: pip install -r requirements-extra.txt")
    monkeypatch.chdir(project)
    monkeypatch.setattr(journal, "SAVE_SECONDS", 0)
    passes: list[str] = []
    stop: list[int] = []

    def counted(name: str, embed):
        def work(*arguments):
            if stop and len(passes) == stop[0]:
                raise KeyboardInterrupt
            passes.append(name)
            return embed(*arguments)

        return work

    monkeypatch.setattr(Ensemble, "embed", counted("torch", Ensemble.embed))
    monkeypatch.setattr(runtimes.Exported, "embed", counted("onnxruntime", runtimes.Exported.embed))

    def run(runtime: str, most: int | None = None) -> int:
        """Embed image by image, up to so many; return how many were embedded."""
        passes.clear()
        stop[:] = [most] if most else []
        choose(project, runtime)
        assert command.guard(lambda: embed_stage.main(*RUN)) == (130 if most else 0)
        assert set(passes) == {runtime}
        return len(passes)

    run("torch", 7)
    run("onnxruntime", 8)
    with monkeypatch.context() as patch:
        patch.setattr(runtimes, "require", lambda *arguments: "another version")
        run("onnxruntime", 9)
    assert len(quick) == 2
    done = sorted(path.read_bytes().count(1) for path in Path(".lrec/embed/glyphs/resnet18").glob("*/train.done"))
    assert done == [7, 8, 9]
    rest = run("onnxruntime")
    assert len(quick) == 2, "the graph is a part of the unfinished work"
    assert run("onnxruntime") == rest + 8


@pytest.mark.parametrize("missing", ["openvino", "onnxscript"])
def test_a_missing_package_is_said_before_any_work(
    missing: str, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(project)
    monkeypatch.setitem(sys.modules, missing, None)
    choose(project, "openvino")
    assert command.guard(lambda: embed_stage.main(*RUN)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: runtime openvino: found no {missing}; ")
    assert line.endswith("; pip install onnx onnxscript openvino")
    assert not Path(".lrec/embed/glyphs/resnet18").exists()


def test_a_precision_that_a_runtime_does_not_have(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(project)
    choose(project, "onnxruntime", precision="bfloat16")
    with pytest.raises(ValueError, match=r"embed\.precision: found bfloat16, which runtime onnxruntime does not have"):
        embed_stage.main(*RUN)
    choose(project, "torch", precision="int8")
    with pytest.raises(ValueError, match=r"found int8, which runtime torch does not have; set embed\.runtime to onnx"):
        embed_stage.main(*RUN)
    with pytest.raises(ValueError, match="found 'tensorrt', expected one of torch, onnxruntime, openvino"):
        runtimes.require("tensorrt")

"""The training loop: the same seed gives the same bytes, killed or not; options do what they say."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lrec.data import meta_classes
from lrec.data.batches import Images
from lrec.data.store import Store
from lrec.io import progress
from lrec.model.ensemble import Ensemble
from lrec.training import augment, loop
from lrec.training.checkpoint import Checkpoint
from lrec.training.loop import Machine, fit, shuffled
from lrec.training.recipe import Recipe
from lrec.training.state import State, Tally

RECIPE = Recipe(epochs=2, batch_size=8, learning_rate=1e-3)


def run(packed: Store, chosen: Recipe = RECIPE, **options):
    rows = packed.rows("train")
    groups = meta_classes.assign(6, 3, 2, 0)
    ensemble = Ensemble("resnet18", 2, 3)
    targets = groups[:, packed.labels(rows)]
    images = Images(packed.images, rows, **packed.normalization("dataset"))
    history = fit(ensemble, images, targets, chosen, **options)
    return ensemble.state_dict(), history


def changed(**values) -> Recipe:
    return Recipe(**(vars(RECIPE) | values))


KNOWN: dict[str, tuple] = {}


def undisturbed(packed: Store, **values) -> tuple:
    """Train from beginning to end; once for all tests, whose images are the same."""
    if (name := str(values)) not in KNOWN:
        KNOWN[name] = run(packed, changed(**values))
    return KNOWN[name]


def same(first: dict, second: dict) -> bool:
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(("count", "sizes"), [(12, [4, 4, 4]), (10, [2, 4, 4]), (9, [4, 5]), (3, [3])])
def test_every_image_is_in_one_batch(count: int, sizes: list[int]):
    parts = shuffled(np.arange(100, 100 + count), 4, np.random.default_rng(0))
    assert sorted(len(part) for part in parts) == sizes
    assert sorted(np.concatenate(parts)) == list(range(100, 100 + count))


def test_same_seed_same_bytes_whatever_the_workers(tiny_store: Store):
    first, history = undisturbed(tiny_store)
    second, again = run(tiny_store, machine=Machine(workers=3))
    other, _ = run(tiny_store, changed(seed=1))
    assert history.equals(again)
    assert same(first, second)
    assert not same(first, other)


def test_training_learns_and_says_so(tiny_store: Store):
    _, history = run(tiny_store, changed(epochs=6, milestones=[0.5]))
    assert list(history.columns) == ["epoch", "learning_rate", "loss", "accuracy"]
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(history["learning_rate"], [1e-3] * 3 + [1e-4] * 3)
    assert history["loss"].iloc[-1] < 0.7 * history["loss"].iloc[0]
    assert history["accuracy"].iloc[-1] > 0.8


@pytest.mark.parametrize(
    "options", [{"random_crop": 0.5}, {"label_smoothing": 0.1}, {"weight_decay": 0.1}, {"schedule": "cosine"}]
)
def test_options_change_the_training(tiny_store: Store, options: dict):
    plain, _ = undisturbed(tiny_store, epochs=1)
    other, history = run(tiny_store, changed(epochs=1, **options))
    assert not same(plain, other)
    assert np.isfinite(history["loss"]).all()


def test_a_loss_that_is_not_finite_stops_at_once(tiny_store: Store):
    with pytest.raises(ValueError, match=r"the loss is nan in epoch 1, step \d, branch \d; .*lower train\.learning"):
        run(tiny_store, changed(learning_rate=1e30))


@pytest.mark.parametrize(
    "text", ["CUDA out of memory", "FIND was unable to find an engine to execute this computation"]
)
def test_out_of_memory_says_what_to_lower(tiny_store: Store, monkeypatch: pytest.MonkeyPatch, text: str):
    def refuse(*_) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr("lrec.training.step.Trainer.step", refuse)
    with pytest.raises(MemoryError, match=r"8 images of 32 px in a batch; lower train\.batch_size"):
        run(tiny_store)


def test_batches_too_small_for_the_processes(tiny_store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lrec.compute.collective.count", lambda: 5)
    with pytest.raises(ValueError, match=r"batch_size: found 8 of 30 images, expected at least 10, two for each of 5"):
        run(tiny_store, changed(parallel="data"))


def test_a_loss_is_read_late_but_named_right():
    """As on a GPU, whose figures are read one step late."""
    tally = Tally(State(epoch=2), progress.bar(9, "test", quiet=True), late=1)
    good, bad = torch.ones(2), torch.tensor([1.0, float("inf")])
    tally.add(4, good, good)
    assert tally.state.step == 0
    tally.add(4, bad, good)
    assert (tally.state.step, tally.state.seen, tally.state.loss) == (1, 4, 4.0)
    with pytest.raises(ValueError, match="the loss is inf in epoch 3, step 2, branch 1"):
        tally.read()


def test_warm_up_and_cosine():
    recipe = Recipe(epochs=10, learning_rate=1.0, schedule="cosine", warmup_epochs=2)
    rates = [recipe.rate(epoch, 1.0) for epoch in range(10)]
    np.testing.assert_allclose(rates[:2], [0.5, 1.0])
    assert rates[1:] == sorted(rates[1:], reverse=True)
    np.testing.assert_allclose(rates[5], 0.5)
    np.testing.assert_allclose(rates[-1], 0, atol=1e-12)


def test_random_crops_are_windows_of_the_image():
    """A ramp shows where each pixel came from."""
    size = 64
    ramp = torch.arange(size).float().repeat(2, 3, size, 1)
    changes = augment.draw(np.random.default_rng(0), 2, False, 0.25)
    cut = augment.crop(ramp, changes.windows)
    assert changes.flipped is None
    for image, (side, x, _) in zip(cut, changes.windows, strict=True):
        assert 0.5 <= side <= 1
        assert abs(x) <= 1 - side + 1e-6
        left, right = size * (x - side + 1) / 2, size * (x + side + 1) / 2
        np.testing.assert_allclose(image[0, 0, [0, -1]], [left, right - 1], atol=1)
    torch.testing.assert_close(augment.crop(ramp, torch.tensor([[1.0, 0, 0]] * 2)), ramp)


@pytest.mark.parametrize("stop_after", [1, 4, 6])
def test_a_stopped_training_goes_on_bit_by_bit(tiny_store: Store, tmp_path: Path, stop_after: int, monkeypatch):
    """Stopped in the middle of an epoch (four steps each) and after a checkpoint of each step."""
    expected, history = undisturbed(tiny_store, epochs=3, random_crop=0.5)
    step, calls = loop._step, []

    def limited(*arguments):
        if len(calls) == stop_after:
            raise KeyboardInterrupt
        calls.append(1)
        return step(*arguments)

    monkeypatch.setattr(loop, "_step", limited)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_store, changed(epochs=3, random_crop=0.5), checkpoint=Checkpoint(tmp_path / "checkpoint" / "a", 0))
    monkeypatch.setattr(loop, "_step", step)
    again = Checkpoint(tmp_path / "checkpoint" / "a", 1e9)
    found, resumed = run(tiny_store, changed(epochs=3, random_crop=0.5), checkpoint=again)
    assert resumed.equals(history)
    assert same(found, expected)
    assert again.spent() > again.earlier > 0


PROGRAM = textwrap.dedent("""
    import sys
    from pathlib import Path
    from safetensors.torch import save_file
    from lrec.data import meta_classes, store
    from lrec.data.batches import Images
    from lrec.model.ensemble import Ensemble
    from lrec.training.checkpoint import Checkpoint
    from lrec.training.loop import fit
    from lrec.training.recipe import Recipe
    folder = Path(sys.argv[1])
    packed = store.open_store(folder / "store")
    rows = packed.rows("train")
    targets = meta_classes.assign(6, 3, 2, 0)[:, packed.labels(rows)]
    ensemble = Ensemble("resnet18", 2, 3)
    saved = Checkpoint(folder / "checkpoint" / "a", 0)
    recipe = Recipe(epochs=4, batch_size=8, learning_rate=1e-3)
    print("start", flush=True)
    images = Images(packed.images, rows, **packed.normalization("dataset"))
    fit(ensemble, images, targets, recipe, checkpoint=saved)
    save_file({key: value.contiguous() for key, value in ensemble.state_dict().items()}, folder / "end.safetensors")
    saved.remove()
""")


def start(folder: Path) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_a_killed_training_ends_with_the_same_bytes(tiny_store: Store, tmp_path: Path):
    """SIGKILL at random moments; with a checkpoint after every step most fall into writing one."""
    expected, _ = undisturbed(tiny_store, epochs=4)
    chance = random.Random(0)
    kills = 0
    while not (tmp_path / "end.safetensors").exists():
        with start(tmp_path) as process:
            process.stdout.readline()
            if kills < 3:
                time.sleep(chance.uniform(0.3, 2.0))
                process.kill()
                kills += process.wait() == -signal.SIGKILL
            else:
                assert process.wait(timeout=120) == 0
    assert kills > 0
    assert same(load_file(tmp_path / "end.safetensors"), expected)
    assert not list((tmp_path / "checkpoint").iterdir())


def test_of_other_trainings_the_checkpoint_with_the_most_work_stays_and_is_not_used(tiny_store: Store, tmp_path: Path):
    for name, seconds in (("short", 1.0), ("long", 3600.0), ("damaged", None)):
        state = tmp_path / "c" / name / "00001-0000000"
        state.mkdir(parents=True)
        (state / "progress.json").write_text(json.dumps({"seconds": seconds}))
    expected, _ = undisturbed(tiny_store)
    mine = Checkpoint(tmp_path / "c" / "mine", 1e9)
    found, _ = run(tiny_store, checkpoint=mine)
    assert same(found, expected)
    assert mine.other == tmp_path / "c" / "long"
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["long", "mine"]


def test_the_disk_holds_one_state_and_no_half_written_one(tiny_store: Store, tmp_path: Path):
    run(tiny_store, checkpoint=Checkpoint(tmp_path / "c" / "mine", 0))
    (state,) = (tmp_path / "c" / "mine").iterdir()
    assert sorted(path.name for path in state.iterdir()) == ["0.safetensors", "progress.json"]
    (state.parent / "00009-0000000").mkdir()
    (state.parent / "00009-0000000" / "0.safetensors").write_bytes(b"half")
    Checkpoint(tmp_path / "c" / "mine", 0)
    assert list(state.parent.iterdir()) == [state]


def test_a_full_disk_keeps_the_state_before(tiny_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run(tiny_store, checkpoint=Checkpoint(tmp_path / "c" / "mine", 1e9))
    before = [path.name for path in (tmp_path / "c" / "mine").iterdir()]

    def full(*_) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match=r"cannot write a checkpoint of 0\.\d GB .*; the one before it stays: free disk"):
        run(tiny_store, checkpoint=Checkpoint(tmp_path / "c" / "mine", 0))
    assert [path.name for path in (tmp_path / "c" / "mine").iterdir()] == before


@pytest.mark.parametrize("damage", ["tensors", "progress", "types", "keys", "missing"])
def test_a_damaged_checkpoint_is_named(tiny_store: Store, tmp_path: Path, damage: str):
    run(tiny_store, checkpoint=Checkpoint(tmp_path / "c" / "mine", 1e9))
    (state,) = (tmp_path / "c" / "mine").iterdir()
    if damage == "tensors":
        (state / "0.safetensors").write_bytes((state / "0.safetensors").read_bytes()[:1000])
    elif damage == "progress":
        (state / "progress.json").write_text("{")
    elif damage == "types":
        (state / "progress.json").write_text('{"seconds": 1.0, "epoch": "two"}')
    elif damage == "keys":
        kept = load_file(state / "0.safetensors")
        save_file({k: v for k, v in kept.items() if not k.endswith("exp_avg")}, state / "0.safetensors")
    else:
        (state / "0.safetensors").unlink()
    with pytest.raises(ValueError, match=r"mine/\d{5}-\d{7}: damaged checkpoint .*; delete it and run again"):
        run(tiny_store, checkpoint=Checkpoint(tmp_path / "c" / "mine", 1e9))


@pytest.mark.parametrize(("seconds", "saved"), [(0.0, [1, 2, 3]), (1e6, [1])])
def test_short_epochs_do_not_each_write_a_checkpoint(
    tiny_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, saved: list[int]
):
    """Where writing takes long beside an epoch; the first one is always written."""
    written, true = [], Checkpoint.save

    def save(checkpoint: Checkpoint, *arguments, **named) -> None:
        true(checkpoint, *arguments, **named)
        checkpoint.cost = seconds
        written.append(arguments[2].epoch)

    monkeypatch.setattr(Checkpoint, "save", save)
    run(tiny_store, changed(epochs=4), checkpoint=Checkpoint(tmp_path / "c" / "a", 1e9))
    assert written == saved


def test_what_is_due_is_written_whatever_it_costs(tmp_path: Path):
    checkpoint = Checkpoint(tmp_path / "c" / "a", 0)
    checkpoint.cost = 1e6
    assert checkpoint.due()
    assert checkpoint.due_after_epoch()

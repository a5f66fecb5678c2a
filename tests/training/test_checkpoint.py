"""Checkpoints: a stopped or killed training ends with the same bytes; what is on the disk, and what is refused."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from small_training import changed, interrupted, run, same, undisturbed

from lrec.data.store import Store
from lrec.training.checkpoint import Checkpoint


@pytest.mark.parametrize("stop_after", [1, 4, 6])
def test_a_stopped_training_goes_on_bit_by_bit(tiny_store: Store, tmp_path: Path, stop_after: int):
    """Stopped in the middle of an epoch (four steps each) and after a checkpoint of each step."""
    expected, history = undisturbed(tiny_store, epochs=3, random_crop=0.5)
    with interrupted(stop_after):
        run(tiny_store, changed(epochs=3, random_crop=0.5), checkpoint=Checkpoint(tmp_path / "checkpoint" / "a", 0))
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


@pytest.mark.slow  # tests/pipeline/test_killed.py kills the stage
def test_a_killed_training_ends_with_the_same_bytes(tiny_store: Store, tmp_path: Path):
    """SIGKILL at random moments; with a checkpoint after every step most fall into writing one."""
    expected, _ = undisturbed(tiny_store, epochs=4)
    chance = random.Random(0)
    kills = 0
    while not (tmp_path / "end.safetensors").exists():
        with start(tmp_path) as process:
            process.stdout.readline()
            if kills < 2:
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
    with pytest.raises(OSError, match=r"cannot write a checkpoint of 0\.\d GB .*; the previous one is kept: free disk"):
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

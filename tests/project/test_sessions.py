"""The commands of DVC and git run page by page, each page in a clone of its own.

These are slow; those of "Working with experiments" in the README also run in tests/pipeline/test_pipeline.py.
"""

import re
import shlex
import shutil
from pathlib import Path

import checkout
import pytest
import torch
import yaml
from small_sets import small_sets
from torchvision import models
from ways import COMMANDS, NAMES, REPLACED, of, way

from lrec.compute import device


@pytest.fixture(scope="module")
def ran(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with small sets and what the pages take from elsewhere, after `dvc repro`."""
    folder = tmp_path_factory.mktemp("ran") / "lrec"
    checkout.clone(root, folder)
    small_sets(root, folder)
    weights = models.mobilenet_v2(weights=None).state_dict()
    torch.save(weights, folder / "mobilenet_v2-49c8b62c.pth")
    for name, command in (("CUB_200_2011.tgz", "gztar"), ("Stanford_Online_Products.zip", "zip")):
        shutil.make_archive(str(folder / name.partition(".")[0]), command, folder / "data/raw", "photos")
        shutil.move(folder / name.replace(".tgz", ".tar.gz"), folder / name)
    for name in ("*.pth", "CUB_200_2011.tgz", "Stanford_Online_Products.zip"):
        with (folder / ".git/info/exclude").open("a") as ignored:
            ignored.write(f"{name}\n")
    checkout.commit(folder, "Small sets")
    checkout.call(folder, "dvc", "repro", LREC_DATA=str(folder / "data/raw"))
    checkout.commit(folder, "Their results")
    return folder


SESSIONS = list(dict.fromkeys(command.page for command in of("session")))


@pytest.mark.slow
@pytest.mark.parametrize("page", SESSIONS)
def test_sessions(root: Path, ran: Path, tmp_path: Path, page: str):
    folder = tmp_path / "lrec"
    shutil.copytree(ran, folder, symlinks=True)
    if page == "docs/training.md":  # as it says: set datasets and backbones, make what training needs
        settings = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
        settings |= {"datasets": ["car_cropped"], "backbones": ["resnet50"]}
        (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    vega = tmp_path / "vega/page.html"
    vega.parent.mkdir()
    vega.write_text("<!doctype html>\n{plot_divs}\n")
    replaced = REPLACED | {"/tmp/": f"{tmp_path}/", "/opt/vega": str(vega.parent)}  # whose path may begin with /tmp/
    if device.choose("auto") != "cpu":
        del replaced["-S machine.processes=gpu"]
    chosen = of("session")
    if page == "docs/shipping.md":  # its runs use its exports, for which the ensemble must start from given weights
        replaced = {shown: own for shown, own in replaced.items() if "car_cropped/mobilenet_v2" not in shown}
        replaced["-n ensemble"] = "-S train.weights=mobilenet_v2-49c8b62c.pth -n ensemble"
        chosen = [command for command in COMMANDS if command in chosen or "lrec.export car_cropped" in command.text]
    where, queued = folder, ""
    for command in [command for command in chosen if command.page == page]:
        text = f"{command.text} --help" if command.text in NAMES else command.text
        if any(way(words) == "not run" for words in command.parts()):
            text = " && ".join(shlex.join(words) for words in command.parts() if way(words) == "session")
        for shown, own in replaced.items():
            text = f"{text} ".replace(shown, own).strip()
        text = text.replace("dizzy-gust", queued)
        script = f'set -eo pipefail; cd "{where}"; {text}\npwd > "{tmp_path}/where"'
        variables = {"PYTHONPATH": str(root), "LREC_DATA": str(folder / "data/raw")}
        out = checkout.call(folder, "bash", "-c", script, **variables)
        queued = (re.findall(r"Queued experiment '(.+?)'", out) or [queued])[-1]
        where = Path((tmp_path / "where").read_text().strip())
    assert where

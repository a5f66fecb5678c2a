"""Names of results: what they tell apart. The figures' tests say what is no benchmark."""

from pathlib import Path

import pytest
import torchvision.models
from ledger_entries import SETTINGS, entry

from lrec.model.backbones import BACKBONES
from lrec.report import naming


@pytest.mark.parametrize("backbone", BACKBONES)
def test_weights_of_imagenet_from_a_file_have_no_other_name(backbone: str):
    file = Path(torchvision.models.get_model_weights(backbone).IMAGENET1K_V1.url)
    digest = f"{file.stem.rpartition('-')[2]}01234567"
    for name in (file.name, f"{backbone}.safetensors"):
        run = entry(backbone=backbone, settings=SETTINGS | {"weights": f"{name} {digest}"})
        assert naming.name(run) == f"{backbone} (M=4)"
    other = entry(backbone=backbone, settings=SETTINGS | {"weights": f"{file.name} {digest[::-1]}"})
    assert naming.name(other) == f"{backbone} (M=4, weights {file.stem} 7654)"


def test_students_of_other_teachers_have_other_names():
    students = [entry(settings=SETTINGS | {"loss": "distillation", "teacher": f"model.pt2 {n * 16}"}) for n in "12"]
    names = [f"resnet18 (M=4, distillation, teacher {n * 4})" for n in "12"]
    assert [naming.name(student) for student in students] == names

"""Small versions of the data sets on the pages, which take seconds to run."""

import re
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from synthetic_sets import save_mat


def small_sets(root: Path, folder: Path) -> None:
    """Write params.yaml with small versions of the pages' variants, and their raw data."""
    settings = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    photos = re.search(r"```yaml\n(  photos:.*?)```", (root / "docs/own-photos.md").read_text("utf-8"), re.DOTALL)
    settings["variants"] |= yaml.safe_load(photos[1])
    settings["variants"]["glyphs"] |= {"layout": "folder", "folder": "letters"}
    settings |= {"allow_partial": True}
    settings["train"]["weights"] = "none"
    settings["embed"]["dimensions"] = 4  # for commands without a number; small sets have too few images for 512
    # After one epoch, the features of all images are so similar that a reduction magnifies rounding errors.
    settings["evaluate"]["audit_tolerance"] = 2.0
    small = {"ensemble_size": 2, "image_size": 32, "epochs": 1, "recall_at": [1, 2, 4, 8]}
    for name, size in (("glyphs", 9), ("photos", 2), ("car_cropped", 2)):
        settings["variants"][name] |= small | {"meta_class_size": size}
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    generator = np.random.default_rng(0)

    def picture(path: Path, colour: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = generator.integers(-60, 60, (40, 40, 3))
        Image.fromarray(np.clip(colour + noise, 0, 255).astype(np.uint8)).save(path)

    for name, train, test in (("letters", 14, 4), ("photos", 3, 2)):
        for number in range(train + test):
            colour = generator.integers(0, 256, 3)
            for image in range(4):
                picture(
                    folder / f"data/raw/{name}/{'test' if number >= train else 'train'}/{number}/{image}.png", colour
                )
    rows = [(f"car_ims/{c}_{image}.jpg", 3, 3, 30, 30, c) for c in (1, 2, 3, 99, 100) for image in range(8)]
    for name, *_, class_id in rows:
        picture(folder / "data/raw/car" / name, np.full(3, 2 * class_id))
    names = [f"car {number}" for number in range(1, 197)]
    save_mat(folder / "data/raw/car/cars_annos.mat", rows, names=names)

"""The figure of the architecture, with the shapes of the actual model."""

from pathlib import Path

import torch

from lrec.io import environment
from lrec.model.ensemble import Ensemble
from lrec.report import figures, model_size

with environment.without("MPLBACKEND"):  # as in figures
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch


def shapes(backbone: str, ensemble_size: int, meta_class_size: int, image_size: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of one image after each part, (C, H, W) or (n,), computed on the meta device."""
    with torch.device("meta"):
        ensemble = Ensemble(backbone, 1, meta_class_size).eval()
        current = torch.empty(1, 3, image_size, image_size)
        found = {"image": tuple(current.shape[1:])}
        for name, part in [*ensemble.stem.named_children(), *ensemble.branches[0].named_children()]:
            current = part(current)
            found[name] = tuple(current.shape[1:])
    return found | {"embedding": (ensemble_size * current.shape[1],)}


def draw(path: Path, backbone: str, ensemble_size: int, meta_class_size: int, image_size: int) -> None:
    """Draw the stem, the M branches, their logits and the embedding, with shapes."""
    sizes = {
        name: " × ".join(str(n) for n in shape)
        for name, shape in shapes(backbone, ensemble_size, meta_class_size, image_size).items()
    }
    with figures.style():
        figure = Figure(figsize=(11, 4.3))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, 110), ylim=(0, 43), xticks=[], yticks=[], frame_on=False)
        _box(axes, (2, 16.5), (10, 9), "image", sizes["image"], "#f6f8fa")
        stem = "conv1 bn1 relu\nmaxpool layer1"
        _box(axes, (18, 14.5), (15, 13), "stem, shared", f"{stem}\n{sizes['layer1']}", "#ddf4ff")
        _arrow(axes, (12, 21), (18, 21))
        for middle, name in ((34, "branch 1"), (23.5, "branch 2"), (8, f"branch {ensemble_size}")):
            _arrow(axes, (33, 21), (39.5, middle))
            for left, part in ((39.5, "layer2"), (51, "layer3"), (62.5, "layer4")):
                _box(axes, (left, middle - 3.2), (9.5, 6.4), part, sizes[part], "#fff1e5")
            _arrow(axes, (49, middle), (51, middle))
            _arrow(axes, (60.5, middle), (62.5, middle))
            _arrow(axes, (72, middle), (74, middle))
            _box(
                axes,
                (74, middle - 3.2),
                (11, 6.4),
                "pool, linear",
                f"{sizes['flatten']} → {sizes['classifier']}",
                "#dafbe1",
            )
            _arrow(axes, (85, middle), (91.5, 21 + (middle - 21) * 0.35))
            axes.text(39.5, middle + 4.1, name, color=figures.FAINT, fontsize=8.5)
        for height in (14.2, 15.7, 17.2):
            axes.plot(62, height, "o", color=figures.FAINT, markersize=2.5)
        _box(
            axes,
            (91.5, 12.5),
            (16, 17),
            "embedding",
            f"each branch's logits\nL2-normalised,\nconcatenated, / √{ensemble_size}\n{sizes['embedding']}, unit norm",
            "#fbefff",
        )
        count = model_size.count_parameters(backbone, ensemble_size, meta_class_size)
        name, note = figures.TITLES[backbone], "shapes are channels × height × width"
        line = f"{name}, M = {ensemble_size} branches of D = {meta_class_size} classes: {count:,} parameters; {note}"
        axes.text(2, 1.6, line, color=figures.FAINT, fontsize=8.5)
        figures.save(figure, path)


def _box(axes: Axes, corner: tuple[float, float], size: tuple[float, float], name: str, text: str, colour: str) -> None:
    left, bottom = corner
    style = "round,pad=0,rounding_size=0.8"
    axes.add_patch(FancyBboxPatch(corner, *size, boxstyle=style, facecolor=colour, edgecolor="#8c959f", linewidth=1))
    middle, lines = bottom + size[1] / 2, text.count("\n") + 1
    axes.text(left + size[0] / 2, middle + 0.85 * lines, name, ha="center", va="center", weight="bold")
    axes.text(left + size[0] / 2, middle - 1.0, text, ha="center", va="center", fontsize=8, linespacing=1.35)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    options = {"arrowstyle": "-|>", "mutation_scale": 9, "color": "#6e7781", "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(start, end, **options))

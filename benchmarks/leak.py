"""Measure how a random weight per forward pass changes recall: the effect behind the reported figures.

In training and in evaluation, each forward pass draws normally distributed numbers, one per branch, whose softmax
scales the branches' inputs. The images of a batch share these weights, which leave a fingerprint in their embeddings.
If batches follow the order of classes, the fingerprint reveals the class; if queries and gallery are embedded in
separate passes, it only adds noise.

    python -m benchmarks.leak                    the trained model of glyphs, and one trained with the weight
    python -m benchmarks.leak cub_uncropped resnet18 --epochs 0

Writes docs/leak.png with --picture.
"""

import argparse
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch

from benchmarks.turns import NO_MEMORY, ran_out
from lrec import params, paths
from lrec.compute import allocator, device
from lrec.data import meta_classes, store
from lrec.data.batches import Images
from lrec.embedding import batch_norm, extract
from lrec.io import environment
from lrec.metrics.recall import recall_at_k
from lrec.model import saved
from lrec.model.ensemble import Ensemble
from lrec.training.loop import Machine, fit
from lrec.training.recipe import Recipe

PICTURE = Path("docs/leak.png")
SPREADS = [0.25, 0.5, 1.0, 2.0]
SITUATIONS = {
    "test, batches in class order": ("one", "sorted"),
    "test, shuffled batches": ("one", "shuffled"),
    "query and gallery apart": ("two", "sorted"),
}


class RandomWeights:
    """Softmax weights, one per branch, drawn anew in each pass of the stem; multiplied by M, so that their mean is 1.

    Attributes:
        spread: standard deviation of the normal numbers; 0 is the network without weights.
    """

    def __init__(self, network: Ensemble, spread: float, seed: int) -> None:
        self.spread, self.size = spread, network.ensemble_size
        self.generator = torch.Generator().manual_seed(seed)
        self.weights = torch.ones(self.size)
        network.stem.register_forward_hook(self._draw)
        for number, branch in enumerate(network.branches):
            branch.register_forward_pre_hook(lambda _, inputs, number=number: inputs[0] * self.weights[number])

    def _draw(self, *_: object) -> None:
        normal = torch.randn(self.size, generator=self.generator)
        self.weights = self.size * torch.softmax(self.spread * normal, 0)


class Trial:
    """A test set, to be embedded in the situations that are compared."""

    def __init__(self, packed: store.Store, normalization: dict, batch_size: int, where: str) -> None:
        self.packed, self.where = packed, where
        self.normalization = normalization
        self.options = extract.Options(batch_size=batch_size, device=where)
        rows = np.concatenate([packed.rows(split) for split in store.tested(packed.index["split"])])
        self.rows = rows[np.argsort(packed.labels(rows), kind="stable")]

    def _embed(self, network: Ensemble, rows: np.ndarray) -> np.ndarray:
        out = np.empty((len(rows), network.width()), np.float32)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # several threads would each run the stem on a part of the batch and draw weights
        try:
            extract.extract(network, Images(self.packed.images, rows, **self.normalization), out, self.options)
        finally:
            torch.set_num_threads(threads)
        return out

    def recall(self, network: Ensemble, passes: str, order: str) -> float:
        """Return recall at 1 in percent.

        Args:
            network: the network, with weights.
            passes: "one": leave-one-out; "two": every other image is a query, and the rest is the gallery.
            order: "sorted" (by class) or "shuffled".
        """
        rows = self.rows
        if order == "shuffled":
            rows = np.random.default_rng(0).permutation(rows)
        parts = [rows] if passes == "one" else [rows[::2], rows[1::2]]
        sides = [part for rows in parts for part in (self._embed(network, rows), self.packed.labels(rows))]
        query, query_labels, *gallery = sides
        return 100 * recall_at_k(query, query_labels, [1], *gallery, device=self.where)[1]

    def row(self, network: Ensemble, spread: float, draws: int) -> list[float]:
        """Return the recall in each situation, the mean over several draws of the weights."""
        found = []
        for seed in range(draws if spread else 1):
            weighted = batch_norm.fold(deepcopy(network))
            RandomWeights(weighted, spread, seed)
            found.append([self.recall(weighted, *situation) for situation in SITUATIONS.values()])
        return [float(value) for value in np.mean(found, axis=0)]


def trained_with_weights(
    variant: str, backbone: str, packed: store.Store, spread: float, epochs: int, where: str
) -> Ensemble:
    """Train as in the stage train, but with random weights in every forward pass."""
    settings = params.load()
    chosen, recipe = settings.variant(variant), settings.train_of(variant)
    rows = packed.rows(store.TRAIN)
    classes = packed.train_classes()
    size = meta_classes.size(chosen.meta_class_size, len(classes)), chosen.ensemble_size
    groups = meta_classes.read(paths.meta_classes(variant), classes, *size)
    network = Ensemble(backbone, *reversed(size), weights=recipe.weights, seed=recipe.seed, share=recipe.share)
    weighted = deepcopy(network)
    RandomWeights(weighted, spread, recipe.seed)
    fit(
        weighted,
        Images(packed.images, rows, **packed.normalization(chosen.model_dump()["normalize"])),
        groups[:, packed.labels(rows)],
        Recipe.of(recipe.model_dump(), epochs),
        machine=Machine(where, settings.machine.workers),
    )
    network.load_state_dict(weighted.state_dict())
    return network


def draw(rows: dict[str, list[float]], title: str) -> None:
    """Draw the recalls as bars."""
    with environment.without("MPLBACKEND"):
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.5, 3.6), dpi=120, layout="constrained")
    width = 0.8 / len(rows)
    for number, (label, values) in enumerate(rows.items()):
        places = np.arange(len(values)) + (number - (len(rows) - 1) / 2) * width
        axes.bar_label(axes.bar(places, values, width * 0.92, label=label), fmt="%.1f", fontsize=8)
    axes.set_xticks(range(len(SITUATIONS)), list(SITUATIONS))
    axes.set_ylabel("recall at 1, percent")
    axes.set_ylim(0, 105)
    axes.set_title(title, fontsize=10)
    figure.legend(fontsize=8, loc="outside lower center", ncols=len(rows))
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(PICTURE, metadata={"Software": None})


def main() -> None:
    """Measure, print a table, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("variant", nargs="?", default="glyphs")
    parser.add_argument("backbone", nargs="?", default="resnet18")
    parser.add_argument("--batch-size", type=int, default=10, help="batch size of the extraction")
    parser.add_argument("--draws", type=int, default=2, help="repetitions with other weights")
    parser.add_argument("--epochs", type=int, help="epochs of training with weights, 0: none (default: the variant's)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--picture", action="store_true", help=f"write {PICTURE}")
    options = parser.parse_args()
    allocator.keep_freed_memory()
    packed = store.open_store(paths.store(options.variant))
    clean, config = saved.load(paths.model(options.variant, options.backbone))
    where = device.choose(options.device)
    trial = Trial(packed, config["normalization"], options.batch_size, where)
    epochs = params.load().variant(options.variant).epochs if options.epochs is None else options.epochs
    print(f"{options.variant}/{options.backbone}, M={clean.ensemble_size}, {len(trial.rows):,} images in batches of")
    print(f"{options.batch_size}, mean of {options.draws} draws, {device.describe(where)}\n")
    print(f"| trained | weights | {' | '.join(SITUATIONS)} |\n|---|---|{'---|' * len(SITUATIONS)}")
    table: dict[tuple[str, float], list[float]] = {}

    def measure(network: Ensemble, name: str, spreads: list[float]) -> None:
        for spread in spreads:
            try:
                table[name, spread] = trial.row(network, spread, options.draws)
                figures = " | ".join(f"{value:.1f}" for value in table[name, spread])
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error):
                    raise
                figures = " | ".join([NO_MEMORY] * len(SITUATIONS))
            print(f"| {name} | {f'spread {spread:g}' if spread else 'none'} | {figures} |", flush=True)

    measure(clean, "without", [0, *SPREADS])
    if epochs:
        weighted = trained_with_weights(options.variant, options.backbone, packed, 1.0, epochs, where)
        measure(weighted, "with spread 1", [0, 1.0])
    if options.picture:
        labels = {
            "trained without, embedded without": ("without", 0),
            "trained without, embedded with": ("without", 1.0),
            "trained with, embedded with": ("with spread 1", 1.0),
        }
        bars = {label: table[key] for label, key in labels.items() if key in table}
        draw(bars, f"{options.variant}, {options.backbone}: a random softmax weight per forward pass")


if __name__ == "__main__":
    main()

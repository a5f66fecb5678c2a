"""Stage embed: embed all splits with the trained network, and the evaluated ones with the network before training.

With embed.reduce, each of the two networks embeds the training images first, and a reduction is fitted on these
embeddings.

A killed run resumes where it stopped. If torchrun starts several processes, they divide the work:
torchrun --nproc_per_node 2 -m stages.embed <variant> <backbone>
"""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lrec import params, paths
from lrec.compute import allocator, collective, device
from lrec.data import store
from lrec.data.batches import Images
from lrec.embedding import audit, batch_norm, extract, graph, journal, quantization, reduction, runtimes
from lrec.io import command, files, given, hashing, locks, provenance
from lrec.model import saved, weights
from lrec.model.ensemble import Ensemble

# The packages that compute the embeddings: an unfinished run resumes only if their code has not changed.
CODE = ("compute", "data", "embedding", "model")
# Folders of unfinished work: embeddings before their reduction, and graphs.
WHOLE, GRAPHS = "whole", "graphs"
STORED = "stored"  # the graph that computes the stored embeddings: the trained network with its reduction
INT8 = "int8"


@locks.holding(
    writes=lambda *of: [paths.embeddings(*of), paths.unfinished("embed", *of)],
    reads=lambda variant, backbone: [paths.store(variant), paths.model(variant, backbone)],
)
def main(variant: str, backbone: str) -> None:
    """Write embeddings/<variant>/<backbone>/: <split>.npy, untrained_<split>.npy, embedding.json.

    If embeddings are reduced, also write reduction.safetensors; if they are computed in int8, model.onnx.
    """
    allocator.keep_freed_memory()
    everything = params.load()
    settings, recipe = everything.embed, everything.train_of(variant)
    given_keys = given.changed(settings.model_dump(), "embed", f"embed@{variant}-{backbone}")
    for line in everything.unused("embed", given_keys):
        command.warn(line)
    runtime, version = {"runtime": settings.runtime}, runtimes.require(settings.runtime, settings.precision)
    if other := settings.runtime != runtimes.TORCH:
        runtime["runtime_version"] = version
    packed = store.open_store(paths.store(variant))
    if settings.precision == INT8:
        quantization.require(packed, "embed.precision")
    folder = paths.model(variant, backbone)
    trained, config = saved.load(folder)
    require_fit(folder, config, backbone, packed.dataset["image_size"])
    everything.require_dimensions(len(packed.rows(store.TRAIN)), trained.width(settings.kind))
    begun = require_start(folder, config, backbone, recipe.weights) if settings.untrained else ""
    where = collective.device("cpu" if other else everything.machine.device)
    device.choose_precision(where, settings.precision)
    chosen = settings.model_dump(include={"kind", "batch_size", "precision"})
    options = extract.Options(**chosen, device=where, workers=everything.machine.workers)
    images = Images(packed.images, np.empty(0, np.int64), **config["normalization"])
    identity = {
        "store": extract.identity(paths.store(variant)),
        "model": hashing.of_file(folder / saved.MODEL),
        "start": begun,
        "settings": [chosen, config["normalization"], settings.dtype, settings.untrained, torch.device(where).type],
        "reduction": [settings.reduce, settings.dimensions],
        "runtime": runtime,
        "code": [torch.__version__, provenance.code_digest(CODE)],
    }
    data, splits = store.digest(paths.store(variant)), list(dict.fromkeys(packed.index["split"]))
    tested = store.tested(splits)

    def networks() -> Iterator[tuple[str, Ensemble, list[str]]]:
        yield "", trained, splits
        if settings.untrained:
            size = trained.ensemble_size, trained.outputs
            options = {"seed": config["seed"], "share": config["share"], "classifier": saved.classifier(config)}
            start = Ensemble(backbone, *size, recipe.weights, **options)
            yield "untrained_", start, tested

    unfinished_work = paths.unfinished("embed", variant, backbone)
    work = unfinished_work / hashing.of_value(identity)
    work.mkdir(parents=True, exist_ok=True)
    with collective.together():
        told = f"{variant}/{backbone}: embedding {settings.kind} on {device.describe(where)}"
        print(f"{told}, {' '.join(runtime.values())}" if other else told)
        for prefix, network, names in networks():
            batch_norm.fold(network)
            how = options
            if settings.reduce != "none":
                about = {"model": begun if prefix else identity["model"], "data": data}
                about |= settings.model_dump(include={"kind", "reduce", "dimensions"})
                some = replace(images, rows=packed.rows(store.TRAIN))
                whole = opened(work / GRAPHS / f"{prefix}{WHOLE}", network, config, options, settings.runtime, packed)
                how = fit_reduction(work, prefix, whole, some, options, about)
            ready = opened(work / GRAPHS / f"{prefix}{STORED}", network, config, how, settings.runtime, packed)
            if not prefix:
                again = extract.again(ready, images, how)
            for name in names:
                path, some = work / f"{prefix}{name}.npy", replace(images, rows=packed.rows(name))
                if (whole := work / WHOLE / path.name).exists():
                    reduce_rows(whole, path, settings.dtype, how)
                else:
                    extract.fill(path, ready, some, settings.dtype, how)
        if collective.rank() == 0:
            rows = packed.rows(tested[0])
            stored = np.load(work / f"{tested[0]}.npy", mmap_mode="r")
            sizes = {"images": settings.audit_images, "batch_size": settings.batch_size}
            found = audit.measure(again, stored, rows, packed.labels(rows), **sizes)
            facts = settings.model_dump(include={"kind", "dtype", "precision", "batch_size"})
            facts |= runtime | {"dimensions": stored.shape[1], "weights": identity["model"], "data": data}
            facts |= {"audit": found}
            if settings.reduce != "none":
                facts |= {"reduce": settings.reduce, "reduction": hashing.of_file(work / reduction.FILE)}
            if settings.precision == INT8:
                facts |= {"graph": hashing.of_file(work / GRAPHS / STORED / graph.FILE)}
            publish(work, paths.embedding_facts(variant, backbone), facts)
            shutil.rmtree(unfinished_work)


def opened(
    folder: Path,
    network: Ensemble,
    config: dict[str, Any],
    options: extract.Options,
    runtime: str,
    packed: store.Store,
) -> Ensemble | runtimes.Exported:
    """Return a network for a runtime; for other runtimes than torch, export its graph into `folder` first."""
    if runtime == runtimes.TORCH:
        return network
    if collective.rank() == 0 and not folder.exists():
        embedding = graph.Embedding(network, config["normalization"], options.kind, options.reduction)
        with files.atomic_folder(folder) as draft:
            graph.write(embedding, config["image_size"], draft)
            if options.precision == INT8:
                quantization.quantize(draft, packed, options.reduction is not None)
                if (draft / graph.WEIGHTS).exists():
                    raise ValueError(
                        "embed.precision: found more than 2 GB of int8 weights, too many for one file; set float32"
                    )
    collective.wait()
    return runtimes.Exported(folder / graph.FILE, runtime, options.precision)


def fit_reduction(
    work: Path,
    prefix: str,
    network: Ensemble | runtimes.Exported,
    images: Images,
    options: extract.Options,
    about: dict[str, Any],
) -> extract.Options:
    """Fit a reduction on a network's embeddings of the training images; return the options with it.

    After a kill, the embedding resumes, but the fit starts again.
    """
    path, whole = work / f"{prefix}{reduction.FILE}", work / WHOLE / f"{prefix}{store.TRAIN}.npy"
    whole.parent.mkdir(exist_ok=True)
    extract.fill(whole, network, images, "float32", options)
    if collective.rank() == 0 and not path.exists():
        components = reduction.principal(np.load(whole, mmap_mode="r"), about["dimensions"], device=options.device)
        reduction.save(path, components.first(about["dimensions"], about["reduce"]), about)
    collective.wait()
    return replace(options, reduction=reduction.read(path))


def reduce_rows(whole: Path, path: Path, dtype: str, options: extract.Options) -> None:
    """Write the reduced rows of a file into another file."""
    if collective.rank() == 0 and options.reduction:
        rows = np.load(whole, mmap_mode="r")
        out = files.map_array(path, dtype, (len(rows), options.reduction.dimensions))
        options.reduction.fill(rows, out)
        out.flush()


def require_fit(folder: Path, config: dict[str, Any], backbone: str, image_size: int) -> None:
    """Refuse a network with another backbone than its folder's name, or trained on images of another size."""
    found, expected = (config["backbone"], config["image_size"]), (backbone, image_size)
    if found != expected:
        raise ValueError(
            f"{folder / saved.CONFIG}: found a {found[0]} trained on images of {found[1]} pixels, expected "
            f"{expected[0]} and {expected[1]}; run `dvc repro` (stage train)"
        )


def require_start(folder: Path, config: dict[str, Any], backbone: str, choice: str) -> str:
    """Return a description of the weights from which training started; refuse a file that has changed since."""
    found, expected = weights.describe(backbone, choice), config.get("weights")
    if found != expected:
        raise ValueError(
            f"{weights.PARAMETER}: found {found}, but {folder} was trained from {expected}; train it again "
            "(`dvc repro --force -s train@...`), bring that file back, or set embed.untrained to false"
        )
    return found


def publish(work: Path, target: Path, facts: dict[str, object]) -> None:
    """Publish the finished files and the facts (at `target`) in one atomic step."""
    with files.atomic_folder(target.parent) as folder:
        made = [work / reduction.FILE, *([work / GRAPHS / STORED / graph.FILE] if "graph" in facts else [])]
        for path in [*sorted(work.glob("*.npy")), *filter(Path.exists, made)]:
            journal.publish(path, folder / path.name)
        files.write_json(folder / target.name, facts)


if __name__ == "__main__":
    command.run(main, "variant", "backbone", lower="embed.batch_size")

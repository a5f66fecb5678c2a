"""A trained ensemble as one file for other programs: python -m lrec.export car_cropped/resnet18 --format onnx.

The exported network takes images (N, 3, S, S) float32, RGB scaled to 0-1, of any number N, normalises them
and returns embeddings (N, d) float32 of unit norm: those of the stage embed, reduced if they are. It is compared with
the original before it is published. With --quantize int8 the graph of ONNX computes in 8 bits. The format average is
another thing: the weights of one network, for train.weights.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lrec.io import environment

environment.clear_for_torch()

import safetensors.torch
import torch
from torch import Tensor

from lrec import paths
from lrec.data import store
from lrec.embedding import audit, graph, quantization, reduction, runtimes
from lrec.embedding.graph import Embedding
from lrec.embedding.reduction import Reduction
from lrec.evaluation import quantized
from lrec.io import command, files, hashing, locks, missing
from lrec.model import average, saved
from lrec.model.kinds import KINDS

TOLERANCE = 1e-4
LOSS = 0.003  # of R@1, above which a line says what int8 loses
_BATCHES = (1, 3)  # sizes compared; the network is traced with 2


def onnx(network: Embedding, example: Tensor, folder: Path) -> Callable[[Tensor], Tensor]:
    """Write model.onnx, one file up to 2 GB, larger weights beside it; return a function that runs it.

    Raises:
        ValueError: onnx, onnxscript or onnxruntime is not installed.
    """
    graph.require([*graph.PACKAGES, "onnxruntime"], "onnx")
    graph.write(network, example.shape[-1], folder)
    written = runtimes.Exported(folder / graph.FILE, "onnxruntime")
    return lambda images: torch.from_numpy(written.run(images.numpy()))


def torchscript(network: Embedding, example: Tensor, folder: Path) -> Callable[[Tensor], Tensor]:
    """Write model.ts, for torch.jit.load in Python and C++; return it, read back."""
    torch.jit.save(torch.jit.trace(network, example), folder / "model.ts")
    return torch.jit.load(folder / "model.ts")


def exported(network: Embedding, example: Tensor, folder: Path) -> Callable[[Tensor], Tensor]:
    """Write model.pt2, for torch.export.load; return it, read back."""
    shapes = ({0: torch.export.Dim("images")},)
    torch.export.save(torch.export.export(network, (example,), dynamic_shapes=shapes), folder / "model.pt2")
    return torch.export.load(folder / "model.pt2").module()


FORMATS = {"onnx": onnx, "torchscript": torchscript, "exported": exported}
AVERAGE, AVERAGED = "average", "average.safetensors"
WRITTEN = (graph.FILE, graph.WEIGHTS, "model.ts", "model.pt2", quantized.FILE, AVERAGED)


def embedded(variant: str, backbone: str) -> tuple[str, Reduction | None]:
    """Return how the stage embed has embedded with a model: the kind, and the reduction; logits if it has not.

    Raises:
        ValueError: it has embedded with other weights, or what it wrote is damaged.
    """
    path, model = paths.embedding_facts(variant, backbone), paths.model(variant, backbone) / saved.MODEL
    if not path.exists():
        return "logits", None
    facts = audit.read(path)
    if facts["weights"] != hashing.of_file(model):
        raise ValueError(
            f"{path}: made with other weights than {model} has; run `dvc repro` (stage embed), or say --kind"
        )
    if "reduction" not in facts:
        return facts["kind"], None
    return facts["kind"], reduction.read(paths.reduction(variant, backbone), facts["reduction"])


def export(
    variant: str, backbone: str, form: str, target: Path, kind: str | None = None, quantize: bool = False
) -> tuple[float, dict[str, Any]]:
    """Export a trained ensemble into a folder, which appears complete and checked or not at all.

    Args:
        variant: of the data set.
        backbone: of the ensemble.
        form: one of `FORMATS`.
        target: the folder; what an earlier export left in it is replaced.
        kind: of embedding, see `lrec.model.kinds.KINDS`; None for what `embedded` returns.
        quantize: a graph of ONNX to 8 bits.

    Returns:
        The largest difference from the original, over random images in batches of 1 and 3, before it is quantised. And
        what `lrec.evaluation.quantized.measure` returns, or {}.

    Raises:
        FileNotFoundError: there is no such model, or no packed store for the quantisation.
        ValueError: the difference is more than `TOLERANCE`, a package is missing, or the folder holds other files.
    """
    files.require_replaceable(target, WRITTEN)
    packed = store.open_store(paths.store(variant)) if quantize else None
    if packed:
        quantization.require(packed, "--quantize")
    ensemble, config = saved.load(paths.model(variant, backbone))
    how = embedded(variant, backbone) if kind is None else (kind, None)
    network, size = Embedding(ensemble, config["normalization"], *how), config["image_size"]
    if packed and (found := packed.dataset["image_size"]) != size:
        raise ValueError(
            f"{paths.store(variant)}: found images of {found} pixels, expected {size} as in the model; run `dvc repro`"
        )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad(), warnings.catch_warnings(), files.atomic_folder(target) as draft:
        # The exporters warn that parts of them are deprecated; a user cannot change that.
        warnings.simplefilter("ignore")
        run = FORMATS[form](network, torch.rand(2, 3, size, size, generator=generator), draft)
        samples = [torch.rand(count, 3, size, size, generator=generator) for count in _BATCHES]
        difference = max(float((run(images) - network(images)).abs().max()) for images in samples)
        if not difference <= TOLERANCE:
            raise ValueError(f"{target}: found embeddings that differ by {difference:.1e}, expected {TOLERANCE:.0e}")
        facts = quantized.measure(draft, packed, how[1] is not None) if packed else {}
        if form == "onnx":
            graph.describe(draft / graph.FILE, _about(variant, backbone, config, *how))
    return difference, facts


def _about(variant: str, backbone: str, config: dict[str, Any], kind: str, reduced: Reduction | None) -> dict[str, Any]:
    """Return what a program must know to use a graph; kind and hashes are named as in a saved database's facts."""
    about = {key: config[key] for key in ("image_size", "resize", "crop") if key in config}
    about |= {"images": "RGB, 0 to 1", "kind": kind}
    about |= {"weights": hashing.of_file(paths.model(variant, backbone) / saved.MODEL)}
    return about | ({"reduction_digest": hashing.of_file(paths.reduction(variant, backbone))} if reduced else {})


def export_average(variant: str, backbone: str, target: Path) -> Path:
    """Write the average of an ensemble's branches, see `lrec.model.average`, into a folder; return the file.

    Raises:
        FileNotFoundError: there is no such model.
        ValueError: the branches have no average, or the folder holds other files.
    """
    files.require_replaceable(target, WRITTEN)
    folder = paths.model(variant, backbone)
    try:
        state = average.weights(*saved.load(folder))
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    with files.atomic_folder(target) as draft, files.atomic(draft / AVERAGED) as stream:
        stream.write(safetensors.torch.save(state))
    return target / AVERAGED


def main(arguments: Sequence[str] | None = None, prog: str = "python -m lrec.export") -> int:
    """Parse the command line, export, return the exit status."""
    parser = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("model", help="a trained run, such as car_cropped/resnet18")
    parser.add_argument("--format", choices=[*FORMATS, AVERAGE], default="onnx", help="default: onnx")
    parser.add_argument("--kind", choices=list(KINDS), help="of whole embeddings (default: as the stage embed does it)")
    parser.add_argument("--quantize", choices=["int8"], help="compute in 8 bits (ONNX alone); R@1 is measured")
    parser.add_argument(
        "--output",
        type=Path,
        help="new folder, or that of an earlier export (default: exported/<model>/<format>, or int8 for the format)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options = parser.parse_args(arguments)

    def work() -> None:
        parts = Path(options.model).parts
        if len(parts) == 3 and parts[0] == paths.model(*parts[1:]).parts[0]:  # as a shell completes it
            parts = parts[1:]
        if len(parts) != 2:
            raise ValueError(f"{options.model}: not a run, expected <variant>/<backbone>")
        source = paths.model(*parts)
        if not source.is_dir():
            raise FileNotFoundError(f"{source}: not found{missing.hint(source)}; run `dvc repro` (stage train) first")
        if options.quantize and options.format != "onnx":
            raise ValueError(f"--quantize: has no effect with --format {options.format}; leave one of them out")
        target = options.output or Path("exported", *source.parts[-2:], options.quantize or options.format)
        files.require_replaceable(target, WRITTEN)
        read = [source, paths.embeddings(*parts), *([paths.store(parts[0])] if options.quantize else [])]
        with locks.held([], read), locks.alone(target):
            if options.format == AVERAGE:
                print(f"{export_average(*parts, target)}: one network, for train.weights")
                return
            difference, facts = export(*parts, options.format, target, options.kind, bool(options.quantize))
        if facts:
            _tell(target, facts)
        else:
            print(f"{target}: differs from the original by at most {difference:.1e}")
        if (target / graph.WEIGHTS).exists():
            print(f"{target}: two files, {graph.FILE} and {graph.WEIGHTS}; keep them together under these names")

    return command.guard(work, options.debug)


def _tell(target: Path, facts: dict[str, Any]) -> None:
    """Print the R@1 that a quantised network keeps, and warn of a loss."""
    before, after = (facts["recall_at_1"][name] for name in ("float32", "int8"))
    print(f"{target}: R@1 {100 * after:.1f} in int8, {100 * before:.1f} in float32, of {facts['queries']:,} queries")
    if before - after > LOSS:
        command.warn(
            f"{target}: int8 loses {100 * (before - after):.1f} points of R@1; the export without it loses none"
        )


if __name__ == "__main__":
    sys.exit(main())

"""The ledger: the last result of every run, including runs that params.yaml no longer lists, and titles of metrics.

Results with different settings, such as ensemble size or kind of embedding, are separate entries.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from lrec import reference
from lrec.io import files, provenance, reading, splits
from lrec.model.backbones import BACKBONES, SHARES
from lrec.model.kinds import KINDS

Ledger = dict[str, dict[str, dict[str, Any]]]
# Titles of the metrics other than recall, for results of earlier versions, which do not contain them.
EARLIER = {"map_at_r": "MAP@R", "r_precision": "R-precision"}
# Names of compressed embeddings in results of earlier versions, and their present names.
COMPRESSED = {"signs": "binary"}
# Settings of training that name the results of variants that are not benchmarks.
METHOD = ("share", *reference.LEARNED, "warmup_epochs", "random_crop", "seed")

Fraction = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1, le=10**6)]
Recall = Annotated[dict[Annotated[str, Field(pattern="^[1-9][0-9]{0,9}$")], Fraction], Field(min_length=1)]
Counts = dict[str, Annotated[list[Count], Field(min_length=2, max_length=2)]]


class Untrained(TypedDict):
    """The figures of the network before training that the tables show."""

    recall: Recall


class Settings(TypedDict):
    """The settings of a training run that the tables show."""

    ensemble_size: Size
    meta_class_size: Size
    outputs: NotRequired[Size]
    image_size: Size
    epochs: Count
    batch_size: Size
    weights: Annotated[str, Field(min_length=1)]
    share: Annotated[str, Field(pattern=f"^({'|'.join(SHARES)})$")]
    classifier: NotRequired[Literal["linear", "cosine"]]
    loss: NotRequired[Annotated[str, Field(pattern="^[a-z0-9_]+$")]]
    teacher: NotRequired[str | None]
    warmup_epochs: NotRequired[Annotated[float, Field(ge=0)]]


class BranchSet(TypedDict):
    """Recall at 1, in percent, of sets with the same number of branches."""

    branches: Size
    recall_at_1: Percent
    recall_at_1_spread: Percent


class Compressed(TypedDict):
    """Recall at 1 of a compressed embedding, in percent, and its bytes per image."""

    code: str
    bytes: Size
    recall_at_1: Percent


class Analysis(TypedDict, total=False):
    """The analyses of a result: all or none; for reduced embeddings, only those that do not need single branches."""

    images: Count
    agreement: Fraction
    ensemble_size: list[BranchSet]
    compression: list[Compressed]


def _all_or_none(analysis: dict[str, Any]) -> dict[str, Any]:
    absent = Analysis.__annotations__.keys() - analysis.keys()
    if analysis and absent not in (set(), {"agreement", "ensemble_size"}):
        raise ValueError(f"{', '.join(Analysis.__annotations__)}, or nothing")
    return analysis


class Embedding(TypedDict, total=False):
    """The settings of the embedding that the tables show."""

    reduce: Annotated[str, Field(pattern="^[a-z]+$")]
    dimensions: Size


class Result(TypedDict):
    """The keys of a result that tables and page need; results have others as well."""

    variant: Annotated[str, Field(pattern="^[A-Za-z0-9_]+$")]
    backbone: Annotated[str, Field(pattern=f"^({'|'.join(BACKBONES)})$")]
    kind: Literal[tuple(KINDS)]
    recall: Recall
    recall_at_1_interval: Annotated[list[Fraction], Field(min_length=2, max_length=2)]
    map_at_r: Fraction
    r_precision: Fraction
    titles: NotRequired[dict[str, str]]
    queries: Count
    lone_queries: Count
    gallery: Count
    untrained: Untrained | None
    counts: Counts
    official: Counts | None
    partial: bool
    embedding: Embedding
    evaluation: dict[str, Any]
    analysis: Annotated[Analysis, AfterValidator(_all_or_none)]
    settings: Settings
    run: NotRequired[provenance.Run | None]


def titles(entry: dict[str, Any]) -> dict[str, str]:
    """Return the metrics of a result, other than recall, that are shown in percent: {key: title}."""
    return entry.get("titles", EARLIER)


def meaningless(entry: dict[str, Any]) -> str:
    """Return the reason why a result's recall does not depend on its embeddings, or an empty string if it does."""
    return splits.meaningless(entry["counts"], entry["queries"], entry["lone_queries"])


def _comparable(result: dict[str, Any]) -> dict[str, Any]:
    if result["partial"] and not result["official"]:
        raise ValueError("official counts where partial is true")
    for key in titles(result):
        if not isinstance(result.get(key), float) or not 0 <= result[key] <= 1:
            raise ValueError(f"a fraction from 0 to 1 as {key}, which `titles` names")
    return result


Whole = Annotated[Result, AfterValidator(_comparable)]


def read_result(path: Path, variant: str, backbone: str) -> dict[str, Any]:
    """Read the result.json of a run, which must have the keys of `Result`."""
    result = reading.read_json(path, "evaluate", Whole)
    if (result["variant"], result["backbone"]) != (variant, backbone):
        found = f"{result['variant']}/{result['backbone']}"
        raise ValueError(
            f"{path}: found the result of {found}, expected {variant}/{backbone}; run `dvc repro` (stage evaluate)"
        )
    return result


def read(path: Path) -> Ledger:
    """Read a ledger {variant: {name: entry}}; if the file does not exist, the ledger is empty.

    Entries of earlier versions are renamed as by `name`.

    Raises:
        ValueError: the file is damaged, or an entry is under the wrong variant or has the same name as another; the
            message says how to restore the file.
    """
    if not path.exists():
        return {}
    found = reading.read_json(path, reading.COMMITTED, dict[str, dict[str, Whole]])
    renamed: Ledger = {}
    for variant, entries in found.items():
        renamed[variant] = {name(entry): entry for entry in entries.values()}
        others = {entry["variant"] for entry in entries.values()} - {variant}
        if others or len(renamed[variant]) < len(entries):
            raise ValueError(
                f"{path}: found under {variant!r:.80} an entry of {', '.join(others) or 'the same name twice'}, "
                "expected each under its own names; restore it with `git checkout`"
            )
    return renamed


def name(entry: dict[str, Any]) -> str:
    """Return a result's name in the ledger: its backbone, then the differences from the original's benchmark.

    So a trial never replaces a benchmark. For variants that are not benchmarks, the numbers of meta classes, epochs
    and pixels are not compared, and of the training only `METHOD`.

    >>> used = {"ensemble_size": 48, "meta_class_size": 12, "share": "layer1", "image_size": 256, "epochs": 20}
    >>> entry = {"variant": "car_cropped", "backbone": "resnet18", "kind": "logits", "partial": False}
    >>> name(entry | {"settings": used | {"weights": "imagenet"}})
    'resnet18'
    >>> used = {"ensemble_size": 4, "meta_class_size": 98, "share": "layer3", "image_size": 128, "epochs": 1}
    >>> used |= {"loss": "proxy_anchor", "warmup_epochs": 0.5, "weights": "none"}
    >>> name(entry | {"settings": used, "kind": "features", "partial": True})
    'resnet18 (M=4, D=98, share layer3, proxy_anchor, warm-up, 1 epoch, weights none, 128 px, partial, features)'
    >>> used |= {"weights": "average.safetensors fa433323667f9e4d", "learning_rate": 0.001}
    >>> name(entry | {"variant": "mine", "settings": used, "embedding": {"precision": "int8"}})
    'resnet18 (M=4, recommended, no crops, weights average fa43, int8)'
    """
    used, (dataset, _) = entry["settings"], reference.VARIANTS.get(entry["variant"], ("", ""))
    groups, size, epochs = used["meta_class_size"], used["image_size"], used["epochs"]
    start = _starting_weights(used["weights"], entry["backbone"])
    teacher = (used.get("teacher") or "").rpartition(" ")[2]  # the digest of its file
    differs = [
        (f"M={used['ensemble_size']}", used["ensemble_size"] != reference.ENSEMBLE_SIZE),
        (f"D={groups}", groups != reference.META_CLASS_SIZE.get(dataset, groups)),
        *((words, True) for words in _learned(used, bool(dataset))),
        ("validated", "kept_epoch" in used),
        (f"{epochs or 'no'} epoch{'' if epochs == 1 else 's'}", epochs != reference.EPOCHS.get(dataset, epochs or 1)),
        (f"weights {start}", start != "imagenet" and (bool(dataset) or start != "none")),
        (f"teacher {teacher[:4]}", bool(teacher)),
        (f"{size} px", bool(dataset) and size != reference.IMAGE_SIZE),
        (f"resize {used.get('resize')}", bool(dataset) and used.get("resize", reference.RESIZE) != reference.RESIZE),
        ("partial", entry["partial"]),
        (entry["kind"], entry["kind"] != reference.KIND),
        ("int8", is_quantized(entry)),
        (reduction(entry), bool(reduction(entry))),
    ]
    named = [text for text, is_different in differs if is_different]
    return entry["backbone"] + (f" ({', '.join(named)})" if named else "")


def _learned(used: dict[str, Any], is_benchmark: bool) -> list[str]:
    """Return how training settings differ from the nearest published recipe, after its name unless it is the original.

    >>> seeded = reference.RECIPES["recommended"] | {"learning_rate": 5e-5, "loss": "distillation", "seed": 1}
    >>> _learned(seeded, True), _learned(seeded, False)
    (['recommended', 'distillation', 'rate 5e-05', 'seed 1'], ['recommended', 'distillation', 'seed 1'])
    >>> _learned(reference.RECIPES["original"] | {"batch_size": 32, "freeze_batch_norm": True}, True)
    ['batch 32', 'batch norm frozen']
    """
    original = reference.RECIPES["original"] | reference.TRAIN
    # Results of earlier versions lack the settings that could not be chosen then.
    ours = {key: used.get(key, value) for key, value in original.items() if is_benchmark or key in METHOD}
    # Its length is at most half of the epochs.
    ours["warmup_epochs"] = int(ours["warmup_epochs"] > 0)
    found = []
    for recipe, settings in reference.RECIPES.items():
        differs = [key for key, value in ours.items() if value != (reference.TRAIN | settings)[key]]
        found.append([recipe, *(_worded(key, ours[key]) for key in differs)])
    recipe, *others = min(found, key=len)
    return others if recipe == "original" else [recipe, *others]


def _worded(key: str, value: Any) -> str:
    """Return a training setting in few words."""
    match key, value:
        case "loss" | "classifier", _:
            return value
        case "batch_size", _:
            return f"batch {value}"
        case "learning_rate", _:
            return f"rate {value}"
        case "schedule", _:
            return f"{value} schedule"
        case "warmup_epochs", _:
            return "warm-up" if value else "no warm-up"
        case "freeze_batch_norm", _:
            return f"batch norm {'frozen' if value else 'trained'}"
        case "random_crop", _:
            return "no crops" if value == 1 else f"crops {value}"
    return f"{key} {value}"


def _starting_weights(record: str, backbone: str) -> str:
    """Return a short name of what `lrec.model.weights.describe` returned: of a file, its name and four digits.

    A file that is named as the backbone, or as torchvision names its files, after the digest of their content, is taken
    for ImageNet weights.

    >>> files = ("resnet18.pth", "resnet18-49c8b62c.pth", "resnet18-f37072fd.pth", "my net.pth")
    >>> [_starting_weights(f"{name} 49c8b62c02d51342", "resnet18") for name in files]
    ['imagenet', 'imagenet', 'resnet18-f37072fd 49c8', 'my_net 49c8']
    >>> _starting_weights("none", "resnet18")
    'none'
    """
    file, _, digest = record.rpartition(" ")
    stem = Path(file).stem
    if not file or stem in (backbone, f"{backbone}-{digest[:8]}"):
        return "imagenet" if file else record
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', stem)[:40]} {digest[:4]}"


def reduction(entry: dict[str, Any]) -> str:
    """Return how a result's embeddings are reduced, and to how many dimensions; empty if they are not reduced.

    >>> [reduction({"embedding": kept | {"dimensions": 64}}) for kept in ({"reduce": "whitened"}, {})]
    ['whitened 64', '']
    """
    stored = entry.get("embedding", {})
    return f"{stored['reduce']} {stored.get('dimensions', '?')}" if "reduce" in stored else ""


def is_quantized(entry: dict[str, Any]) -> bool:
    """Return whether a result's embeddings were computed in int8."""
    return entry.get("embedding", {}).get("precision") == "int8"


def learns_as_original(entry: dict[str, Any]) -> bool:
    """Return whether a result's branches have the original's classifier and loss."""
    return all(entry["settings"].get(key, value) == value for key, value in reference.LEARNED.items())


def is_full_size(entry: dict[str, Any]) -> bool:
    """Return whether an entry is comparable with the benchmark: all images, the original's settings."""
    return entry["variant"] in reference.VARIANTS and name(entry) == entry["backbone"]


def metric(entry: dict[str, Any]) -> str:
    """Return a result's name in `dvc metrics`, which does not depend on the ensemble size.

    `dvc metrics diff` can therefore compare ensembles of different sizes. The parameters of a run show its size.

    >>> metric({"backbone": "resnet18", "kind": "features", "settings": {"ensemble_size": 4}})
    'resnet18 (features)'
    """
    differs = [entry["kind"]] if entry["kind"] != reference.KIND else []
    differs += [reduction(entry).split()[0]] if reduction(entry) else []
    return entry["backbone"] + (f" ({', '.join(differs)})" if differs else "")


def upsert(ledger: Ledger, entry: dict[str, Any], run: dict[str, Any] | None) -> bool:
    """Add a run's result to the ledger, or replace the run's earlier result.

    A run with the same code, data and settings whose 95 % interval of R@1 overlaps the earlier one reproduces the
    earlier result, which is kept, with the record of its training. So published tables do not change when another
    CPU rounds differently.

    Args:
        ledger: the ledger, which is changed.
        entry: a result as the stage evaluate writes it, without the record of its training.
        run: time, hardware and commit of the training.

    Returns:
        Whether the ledger has changed; False for a reproduction.
    """
    entries = ledger.setdefault(entry["variant"], {})
    if reproduces(entries.get(name(entry)), entry):
        return False
    entries[name(entry)] = {**entry, "run": run}
    return True


def reproduces(published: dict[str, Any] | None, entry: dict[str, Any]) -> bool:
    """Return whether a result reproduces the published one, up to rounding differences in training."""
    same = ("settings", "embedding", "evaluation", "counts", "official", "queries", "gallery")
    if not published or any(published.get(key) != entry[key] for key in same):
        return False
    (low, high), (lower, upper) = published["recall_at_1_interval"], entry["recall_at_1_interval"]
    return published["recall"].keys() == entry["recall"].keys() and lower <= high and low <= upper


def ordered(ledger: Ledger) -> Ledger:
    """Return a ledger in a fixed order, independent of the order of the runs."""
    return {variant: dict(sorted(ledger[variant].items(), key=_place)) for variant in sorted(ledger)}


def _place(item: tuple[str, dict[str, Any]]) -> tuple[str, bool, str, int, str]:
    """Return the sorting key in a variant: backbone, the original's kind first, then ensemble size and name."""
    entry = item[1]
    size = entry["settings"]["ensemble_size"]
    return entry["backbone"], entry["kind"] != reference.KIND, entry["kind"], size, item[0]


def write(path: Path, ledger: Ledger) -> None:
    """Write a ledger, atomically."""
    files.write_json(path, ordered(ledger))

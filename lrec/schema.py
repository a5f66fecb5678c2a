"""The keys of params.yaml: meaning, unit, type and range of each.

Defaults live in the YAML alone. Leaf functions take plain values, never these objects.
"""

import importlib
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)


def looked_up(module: str, name: str) -> Any:
    """Return what a module defines, such as a registry, looked up by name when a file is checked.

    An import would make every stage depend on every reader and every network, and a new one would run all stages
    again.
    """
    return getattr(importlib.import_module(module), name)


def _registered(module: str, registry: str) -> AfterValidator:
    """Accept the names that a registry has."""

    def check(name: str) -> str:
        known = looked_up(module, registry)
        if name not in known:
            raise ValueError(" or ".join(repr(other) for other in known))
        return name

    return AfterValidator(check)


BackboneName = Annotated[str, _registered("lrec.model.backbones", "BACKBONES")]
ShareName = Annotated[str, _registered("lrec.model.backbones", "SHARES")]
LayoutName = Annotated[str, _registered("lrec.datasets.reader", "LAYOUTS")]
KindName = Annotated[str, _registered("lrec.model.kinds", "KINDS")]
LossName = Annotated[str, _registered("lrec.training.losses", "LOSSES")]
Precision = Literal["float32", "bfloat16"]
# Upper bounds keep a slip of the keyboard from asking for all of a machine's memory or time.
Count = Annotated[int, Field(ge=1, le=10**9)]
Natural = Annotated[int, Field(ge=0, le=10**9)]
Threads = Annotated[int, Field(ge=0, le=1024)]
Processes = Annotated[int, Field(ge=1, le=1024)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Channels = Annotated[list[float], Field(min_length=3, max_length=3)]


class Section(BaseModel):
    """A part of params.yaml: no unknown key, no missing key, no silent conversion."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Normalization(Section):
    """Mean and standard deviation per channel (red, green, blue), of pixels scaled to 0-1."""

    mean: Channels
    std: Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]


# The tags keep pydantic from reporting the errors of both alternatives.
Normalize = Annotated[
    Annotated[Literal["dataset", "imagenet"], Tag("name")] | Annotated[Normalization, Tag("values")],
    Discriminator(lambda value: "values" if isinstance(value, dict | Normalization) else "name"),
]


class Machine(Section):
    """How the machine works: no result depends on it, apart from floating-point noise.

    device: for all stages; "auto" is a GPU where there is one. processes: that train together, a number, or "gpu"
    for one per GPU. branches_at_once: on a CPU, most threads that train a branch each. workers: threads that read
    batches ahead, 0 = none. decode_workers: threads that decode raw images, 0 = one per core. deterministic: make a
    GPU repeat its bytes. checkpoint_minutes: between checkpoints of training, in addition to those after
    epochs.
    """

    device: str
    processes: Processes | Literal["gpu"]
    branches_at_once: Count
    workers: Threads
    decode_workers: Threads
    deterministic: bool
    checkpoint_minutes: Annotated[float, Field(gt=0)]


# Keys of earlier versions, and the keys that replace them.
MOVED = {
    "preprocess": "machine.decode_workers",
    "train.workers": "machine.workers",
    "embed.workers": "machine.workers",
    **{f"{section}.device": "machine.device" for section in ("train", "embed", "evaluate")},
    **{
        f"train.{key}": f"machine.{key}"
        for key in ("processes", "branches_at_once", "deterministic", "checkpoint_minutes")
    },
}


class MetaClasses(Section):
    """The random groupings. load_ids: CSV of an earlier run to reuse instead of drawing."""

    seed: Seed
    load_ids: str | None


BatchSize = Annotated[int, Field(ge=2, le=10**9)]
Rate = Annotated[float, Field(gt=0)]
Schedule = Literal["multistep", "cosine"]
Classifier = Literal["linear", "cosine"]
Warmup = Annotated[float, Field(ge=0)]
RandomCrop = Annotated[float, Field(gt=0, le=1)]


class Recipe(Section):
    """The keys of the section `train` that a named recipe decides; `Train` explains them."""

    share: ShareName
    batch_size: BatchSize
    learning_rate: Rate
    schedule: Schedule
    warmup_epochs: Warmup
    loss: LossName
    classifier: Classifier
    freeze_batch_norm: bool
    random_crop: RandomCrop


class Train(Section):
    """How to train.

    recipe: the name of one, under `recipes`; it decides the keys that are null.
    weights: "imagenet", "none", or a file (`{backbone}` in it stands for the backbone's name). share: shared depth,
    where the stem ends. batch_size: images. accumulate: batches per optimiser step. learning_rate: of Adam. schedule:
    "multistep" multiplies it by gamma at the milestones, fractions of the epochs (0-1); "cosine" lets it fall to 0.
    warmup_epochs: linear growth first, a recipe's over at most half of the epochs. weight_decay: decoupled, per step.
    classifier: of each branch, "linear", the original's, or "cosine": features and weights normalised, cosines
    multiplied by scale. loss: of each branch; those of pytorch-metric-learning learn an embedding of embedding_size
    numbers instead of logits, and their own parameters have the rate loss_learning_rate; "distillation" learns the
    embeddings of the teacher, a file of torch.export. images_per_class: how many images a batch holds of each of its
    classes, apart from batches of what is left of the classes; 0 draws images at random. label_smoothing: as a fraction
    (0-1). freeze_batch_norm: normalise by the statistics of the starting weights. flip: random horizontal flip.
    random_crop: smallest fraction of the area that is cut out, 1 for none. validation_share: fraction of the training
    classes held out for validation after each epoch (0-1). validation_kind: of the embedding whose recall is the
    validation. patience: training ends after this many epochs without an improvement; the best is kept.

    precision: of the forward pass; "auto" is bfloat16 on a GPU that has it, else float32. tf32: let a GPU round the
    factors of float32 products. compile: generate kernels first. cuda_graphs: "auto" lets a GPU record the branches'
    steps where they allow it, and repeat them. parallel: processes share the branches
    ("ensemble") or the images of a batch ("data").
    """

    recipe: str
    weights: str
    share: ShareName | None
    batch_size: BatchSize | None
    accumulate: Count
    learning_rate: Rate | None
    schedule: Schedule | None
    milestones: list[Annotated[float, Field(gt=0, lt=1)]]
    gamma: Annotated[float, Field(gt=0)]
    warmup_epochs: Warmup | None
    weight_decay: Annotated[float, Field(ge=0)]
    classifier: Classifier | None
    scale: Annotated[float, Field(gt=0)]
    loss: LossName | None
    embedding_size: Annotated[int, Field(ge=2, le=10**5)]
    loss_learning_rate: Rate
    teacher: str | None
    images_per_class: Natural
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    freeze_batch_norm: bool | None
    flip: bool
    random_crop: RandomCrop | None
    validation_share: Annotated[float, Field(ge=0, lt=1)]
    validation_kind: KindName
    patience: Count
    seed: Seed
    precision: Precision | Literal["auto"]
    tf32: bool
    compile: bool
    cuda_graphs: Literal["auto", "off"]
    parallel: Literal["ensemble", "data"]


def _is_metric(loss: str) -> bool:
    return looked_up("lrec.training.losses", "LOSSES")[loss].is_metric


def taught(loss: str) -> bool:
    """Return whether a loss learns from a teacher."""
    return looked_up("lrec.training.losses", "LOSSES")[loss].taught


def _learns(loss: str) -> bool:
    return looked_up("lrec.training.losses", "LOSSES")[loss].learns


# Keys that do nothing where another one of their section has such a value.
UNUSED: dict[str, dict[str, tuple[str, Callable[[Any], bool]]]] = {
    "meta_classes": {"seed": ("load_ids", bool)},
    "train": {
        **dict.fromkeys(("milestones", "gamma"), ("schedule", lambda value: value == "cosine")),
        **dict.fromkeys(("classifier", "label_smoothing"), ("loss", _is_metric)),
        "scale": ("classifier", lambda value: value == "linear"),
        "embedding_size": ("loss", lambda value: not _is_metric(value) or taught(value)),
        "teacher": ("loss", lambda value: not taught(value)),
        "loss_learning_rate": ("loss", lambda value: not _learns(value)),
        **dict.fromkeys(("validation_kind", "patience"), ("validation_share", lambda value: value == 0)),
    },
    "embed": {"dimensions": ("reduce", lambda value: value == "none")},
    "evaluate": dict.fromkeys(("subsets", "pca_dimensions"), ("analysis_images", lambda value: value == 0)),
}


class Embed(Section):
    """Extraction.

    kind: "logits", the original's embedding, or "features", the pooled features of every branch.
    reduce: "pca" keeps the first principal components of the training images' embeddings, as many as dimensions says;
    "whitened" divides each by its standard deviation as well; "none" keeps the whole embedding.
    dtype: of the stored embeddings; float16 takes half the space. batch_size: images.
    untrained: embed with the network as it was before training, too. precision: of the forward pass; "int8" quantises
    the graph of another runtime than torch, with ranges of activations that are measured on training images.
    audit_images: how many test images the batch-independence check embeds again in other batches.
    runtime: what computes the embeddings: "torch", or "onnxruntime" or "openvino", from the exported graph on a CPU.
    """

    kind: KindName
    reduce: Literal["none", "pca", "whitened"]
    dimensions: Annotated[int, Field(ge=1, le=10**6)]
    dtype: Literal["float32", "float16"]
    batch_size: Count
    untrained: bool
    audit_images: Annotated[int, Field(ge=4, le=10**9)]
    precision: Precision | Literal["int8"]
    runtime: Literal["torch", "onnxruntime", "openvino"]


class Evaluate(Section):
    """Metrics and analyses of the embeddings.

    audit_tolerance: largest difference that the batch-independence check may find; embeddings have unit norm.
    analysis_images: most tested images that the analyses of ensemble size and compression use, of whole classes
    drawn at random; 0 = no analyses. subsets: how many sets of branches are drawn per ensemble size.
    pca_dimensions: numbers of dimensions that embeddings are reduced to.
    """

    audit_tolerance: Annotated[float, Field(gt=0)]
    analysis_images: Natural
    subsets: Annotated[int, Field(ge=1, le=10_000)]
    pca_dimensions: list[Count]


def _meta_class_size(value: Any) -> Any:
    number = isinstance(value, int) and not isinstance(value, bool) and 2 <= value <= 10**6
    if not (number or isinstance(value, float) and 0 < value < 1 or value == "all"):
        raise ValueError("2 to 1,000,000 meta classes, a fraction of the training classes between 0 and 1, or all")
    return value


class Variant(Section):
    """A data set with its settings.

    layout: which reader. folder: inside data_root. crop: "box" is the annotated bounding box.
    resize: "squash" to a square, or "crop" the middle. image_size: side after resizing, pixels.
    normalize: mean and std; "dataset" measures them on the training images.
    ensemble_size: M branches. meta_class_size: D meta classes per branch, as a number, as a fraction of the training
    classes (0-1), or "all" of them. epochs: of training; 0 keeps the starting weights as they are.
    recall_at: cutoffs K.
    train: keys of the section `train` that have other values in this variant.
    """

    layout: LayoutName
    folder: str | None
    crop: Literal["none", "box"]
    resize: Literal["squash", "crop"]
    image_size: Annotated[int, Field(ge=32, le=4096)]
    normalize: Normalize
    ensemble_size: Annotated[int, Field(ge=1, le=10_000)]
    meta_class_size: Annotated[Any, AfterValidator(_meta_class_size)]
    epochs: Annotated[int, Field(ge=0, le=10**6)]
    recall_at: Annotated[list[Count], Field(min_length=1)]
    train: dict[str, Any]

    @field_validator("recall_at")
    @classmethod
    def _increasing(cls, value: list[int]) -> list[int]:
        if value != sorted(set(value)):
            raise ValueError("increasing cutoffs without repeats")
        return value

    @model_validator(mode="after")
    def _needs_folder(self) -> Self:
        if looked_up("lrec.datasets.reader", "LAYOUTS")[self.layout].on_disk and not self.folder:
            raise ValueError(f"a folder inside data_root in the key folder, which layout {self.layout} needs")
        return self

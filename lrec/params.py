"""The strict reader of params.yaml; lrec/schema.py describes the keys.

An unknown, missing or mistyped key is an error before any work starts; the message gives the key's full path.
"""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from lrec import schema
from lrec.io import missing, strict_yaml

PARAMS_FILE = missing.PARAMS
DATA_VARIABLE = "LREC_DATA"


class Params(schema.Section):
    """The whole file. Use `load` to read one."""

    datasets: Annotated[list[str], Field(min_length=1)]
    backbones: Annotated[list[schema.BackboneName], Field(min_length=1)]
    data_root: str
    allow_partial: bool
    meta_classes: schema.MetaClasses
    recipes: dict[str, schema.Recipe]
    train: schema.Train
    embed: schema.Embed
    evaluate: schema.Evaluate
    machine: schema.Machine
    variants: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+$")], schema.Variant]

    @field_validator("datasets", "backbones")
    @classmethod
    def _distinct(cls, value: list[str]) -> list[str]:
        if len(value) != len(set(value)):
            raise ValueError("no entry twice")
        return value

    def variant(self, name: str) -> schema.Variant:
        """Return a variant's block.

        Raises:
            ValueError: there is no such variant; the message lists the known ones.
        """
        if name not in self.variants:
            raise ValueError(
                f"{PARAMS_FILE}: unknown variant {name!r}, expected one of {', '.join(self.variants)}; "
                "correct the name (here or in `datasets`), or add a block under `variants` (docs/own-photos.md)"
            )
        return self.variants[name]

    def train_of(self, name: str) -> schema.Train:
        """Return a variant's training parameters: its own values, else those of the section `train`, else its recipe's.

        The recipe's warm-up is limited to half of the variant's epochs, and the recipe freezes batch-norm statistics
        only if the network starts from pretrained weights.
        """
        recipe, chosen = self._recipe_and_chosen(name)
        return self.train.model_copy(update={**recipe, **chosen})

    def overrides(self, name: str) -> dict[str, Any]:
        """Return the training parameters of a variant that differ from its recipe or from the section `train`."""
        recipe, chosen = self._recipe_and_chosen(name)
        plain = {**self.train.model_dump(), **recipe}
        return {key: value for key, value in chosen.items() if value != plain[key] and key != "recipe"}

    def _recipe_and_chosen(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what a variant's recipe sets, and the values that win over it."""
        chosen = {**_set(self.train.model_dump()), **_set(self.variant(name).train)}
        recipe = self.recipes[chosen["recipe"]].model_dump()
        recipe["warmup_epochs"] = min(recipe["warmup_epochs"], self.variant(name).epochs / 2)
        recipe["freeze_batch_norm"] &= chosen["weights"] != "none"
        return recipe, chosen

    def require_trainable(self, name: str) -> None:
        """Refuse incompatible training parameters of a variant; the message names the block that sets them."""
        recipe, epochs = self.train_of(name), self.variant(name).epochs

        def key(of: str) -> str:
            return f"{PARAMS_FILE}: {f'variants.{name}.' if _set(self.variant(name).train).get(of) else ''}train.{of}"

        if 0 < epochs <= recipe.warmup_epochs:
            raise ValueError(
                f"{key('warmup_epochs')}: found {recipe.warmup_epochs:g}, expected less than the {epochs} epochs of "
                f"variants.{name}"
            )
        if recipe.freeze_batch_norm and recipe.weights == "none":
            raise ValueError(
                f"{key('freeze_batch_norm')}: found true with train.weights none, but a network with random weights "
                f"has no statistics to keep in variants.{name}; set it to false"
            )
        if schema.taught(recipe.loss) and not recipe.teacher:
            raise ValueError(
                f"{key('teacher')}: found null with train.loss {recipe.loss} in variants.{name}, expected a file; "
                "export a trained run with python -m lrec.export --format exported"
            )
        together, batch = recipe.images_per_class, recipe.batch_size
        if together and (batch % together or batch < 2 * together):
            raise ValueError(
                f"{key('images_per_class')}: found {together}, expected a divisor of batch_size {batch} that leaves "
                f"at least two classes in a batch of variants.{name}"
            )

    def without_effect(self, name: str, given: Iterable[str]) -> list[str]:
        """Return a warning for each of the given keys of `train` that has no effect on the training of a variant.

        Keys that are null again, as after a student with `train.teacher`, ask for nothing and are left out.
        """
        lines, own, recipe = [], _set(self.variant(name).train), self.train_of(name)
        for key in given:
            value = getattr(self.train, key)
            if value is None:
                continue
            if key in own and own[key] != value:
                lines.append(
                    f"train.{key}: {value} has no effect on {name}, whose own block sets {own[key]}; "
                    f"set variants.{name}.train.{key}"
                )
            elif key not in own:
                lines += self.unused("train", [key], recipe)
        return lines

    def unused(self, section: str, given: Iterable[str], values: schema.Section | None = None) -> list[str]:
        """Return a warning for each of the given keys of a section that other values of the section make ineffective.

        Args:
            section: the name of the section.
            given: keys of the section.
            values: values to use instead of the section's, such as those of a variant's training.
        """
        values = values or getattr(self, section)
        return [
            f"{section}.{key}: {getattr(values, key)} has no effect while {section}.{other} is {setting}"
            for key in given
            for other, idle in [schema.UNUSED[section].get(key, ("", bool))]
            if other and idle(setting := getattr(values, other))
        ]

    def unlisted(self, name: str, given: Iterable[str]) -> str:
        """Return a warning if keys are given of a variant that `datasets` does not list, otherwise an empty string."""
        keys = ", ".join(f"{key} {getattr(self.variants[name], key)}" for key in given)
        if name in self.datasets or not keys:
            return ""
        return (
            f"variants.{name}: {keys}: no effect, since datasets is [{', '.join(self.datasets)}]; "
            f"add {name} to datasets, or set it in variants.{self.datasets[0]}"
        )

    def require_dimensions(self, images: int, width: int) -> None:
        """Refuse a reduction to more dimensions than possible.

        Args:
            images: number N of training images; N points span at most N - 1 dimensions.
            width: dimensions of the embedding before the reduction.
        """
        most = min(images - 1, width)
        if self.embed.reduce != "none" and self.embed.dimensions > most:
            raise ValueError(
                f"{PARAMS_FILE}: embed.dimensions: found {self.embed.dimensions}, expected at most {most} with "
                f"{images:,} training images and embeddings of {width:,} numbers; lower it, or set embed.reduce to none"
            )

    def raw_root(self) -> Path:
        """Return the folder of the raw data sets: the variable LREC_DATA if set, else data_root; ~ is expanded."""
        return Path(os.path.expanduser(os.environ.get(DATA_VARIABLE) or self.data_root))


def _explain(error: ValidationError, prefix: str = "") -> str:
    """Describe the first problem of a failed validation in one line: key, found, expected, what to do."""
    problems = error.errors()
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    path = [str(part) for part in problem["loc"] if part not in ("name", "values")]
    key = ".".join([prefix, *path] if prefix else path)
    rest = f" ({len(problems) - 1} more after this one)" if len(problems) > 1 else ""
    if problem["type"] == "extra_forbidden":
        if new := schema.MOVED.get(key if not prefix else f"train.{path[-1]}"):
            return f"{PARAMS_FILE}: {key}: moved; set {new} instead{rest}"
        known = _known_keys(path[:-1]) if not prefix else list(schema.Train.model_fields)
        close = difflib.get_close_matches(path[-1], known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(known)}"
        return f"{PARAMS_FILE}: {key}: unknown key; {hint}{rest}"
    if problem["type"] == "missing":
        return f"{PARAMS_FILE}: {key}: missing; add the key{rest}"
    expected = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{PARAMS_FILE}: {key or 'top level'}: found {problem['input']!r:.80}, expected {expected}{rest}"


def _known_keys(path: list[str]) -> list[str]:
    """Return the keys that the schema allows at a path."""
    if not path:
        return list(Params.model_fields)
    if path[0] == "recipes":
        return list(schema.Recipe.model_fields)
    if path[0] == "variants":
        return list((schema.Normalization if path[2:] else schema.Variant).model_fields)
    section = Params.model_fields[path[0]].annotation
    return list(section.model_fields) if isinstance(section, type) else []


def load(path: Path = PARAMS_FILE) -> Params:
    """Read and check a params.yaml.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not YAML, or a key is unknown, missing or mistyped; the message gives its full path.
    """
    missing.require_project(path)
    raw = strict_yaml.read(path)
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: found {type(raw).__name__}, expected a mapping of keys to values")
    try:
        params = Params.model_validate(raw)
    except ValidationError as error:
        raise ValueError(_explain(error)) from error
    blocks = {"train": raw["train"], **{f"variants.{name}.train": x.train for name, x in params.variants.items()}}
    for key, block in blocks.items():
        if str(block.get("recipe", params.train.recipe)) not in params.recipes:
            known = " or ".join(map(repr, params.recipes))
            raise ValueError(f"{path}: {key}.recipe: found {block['recipe']!r:.80}, expected {known}")
    for name, variant in params.variants.items():
        try:
            schema.Train.model_validate({**raw["train"], **variant.train})
        except ValidationError as error:
            raise ValueError(_explain(error, f"variants.{name}.train")) from error
    for name in params.datasets:
        params.require_trainable(name)
    if params.embed.precision != "float32":
        # Checked here so that it does not fail after the training, when images are embedded.
        require = schema.looked_up("lrec.embedding.runtimes", "require_precision")
        try:
            require(params.embed.runtime, params.embed.precision)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return params


def _set(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values that are not null."""
    return {key: value for key, value in values.items() if value is not None}

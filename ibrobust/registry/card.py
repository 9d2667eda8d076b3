"""The model card: how a model was made, what it scored, and which weights belong to it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from ibrobust.errors import IbrobustError
from ibrobust.mapping_files import read_mapping_file
from ibrobust.readable import Readable, percent
from ibrobust.training.recipe import STORED, Recipe

SCHEMA_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# Names that Windows keeps for devices, whatever their ending.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{kind}{n}" for kind in ("com", "lpt") for n in range(1, 10))}


class _Record(BaseModel):
    # An entropy may be infinite: by default pydantic makes that null.
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    @model_serializer(mode="wrap")
    def _without_what_is_absent(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = write(self)
        known = type(self).model_fields
        return {key: value for key, value in fields.items() if value is not None or known[key].is_required()}


class DatasetRecord(_Record):
    """The data that a model was trained on and scored with."""

    name: str
    fingerprint: Annotated[str, Field(description="SHA-256 of class names, labels and pixels")]
    class_names: tuple[str, ...]
    num_train: int
    num_test: int
    source: Annotated[
        str | None, Field(description="what it can be read from again, if neither the name nor a recipe says that")
    ] = None


class WeightsRecord(_Record):
    """The weights file beside the card."""

    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class TrainingRecord(_Record):
    """The actual training, which may differ from the recipe's request."""

    epochs_run: Annotated[int, Field(ge=1)]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    images_per_second: float
    final_terms: Annotated[
        dict[str, float],
        Field(description="means over the last epoch, in nats; of adversarial training also shares in [0, 1]"),
    ]
    created: Annotated[str, Field(description="UTC, ISO 8601")]
    hardware: str
    precision: Annotated[
        str | None, Field(description="no, bf16 or fp16, which auto in the recipe stood for; None in older cards")
    ] = None
    versions: dict[str, str]

    @model_validator(mode="after")
    def _check_terms(self) -> TrainingRecord:
        if "loss" not in self.final_terms:
            raise ValueError("the final terms have no loss")
        return self


class AccuracyRecord(Readable, _Record):
    """An accuracy in [0, 1] with its counts, so that its uncertainty is known."""

    correct: Annotated[int, Field(ge=0)]
    total: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _check_counts(self) -> AccuracyRecord:
        if self.correct > self.total:
            raise ValueError(f"{self.correct} of {self.total} images cannot be correct")
        return self

    @property
    def accuracy(self) -> float:
        return self.correct / self.total

    def _sentence(self) -> str:
        return f"{percent(self.accuracy)}, {self.correct:,} of {self.total:,}"


class ArchitectureRecord(_Record):
    """How a model is built that is not ibrobust's own: a function, and what is around the module that it gives.

    Attributes:
        factory: ``package.module:function``, ``timm:NAME`` or ``torchvision:NAME``.
        arguments: of the function, by keyword.
        mean: of each channel, in [0, 1] scale, which is taken from the images; None where the module does that itself.
        std: of each channel, in [0, 1] scale, which the images are divided by.
        logits_inside: whether the logits are an attribute or a key of the module's output, see `ibrobust.logits_of`.
        resized_to: (H, W) that the images are scaled to inside the model, see `ibrobust.resized`; None if they are not.
        one_logit: whether the module has one logit for two classes, see `ibrobust.two_logits`.
        channels: of the images.
        image_size: (H, W) of the images.
        probe: of the model as it was registered, see `ibrobust.registry.same_function.probe`; None in older cards.
    """

    factory: Annotated[str, Field(pattern=r"^[^:\s]+:[^:\s]+$")]
    arguments: dict[str, Any] = {}
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    logits_inside: bool = False
    one_logit: bool = False
    resized_to: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    channels: Annotated[int, Field(ge=1)]
    image_size: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]]
    probe: tuple[float, ...] | None = None

    @field_validator("arguments")
    @classmethod
    def _plain(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments, which must be as JSON would give them back."""
        try:
            read = json.loads(json.dumps(arguments))
        except (TypeError, ValueError):
            read = None
        if read != arguments:
            raise ValueError("a value is none of: a number, text, true, false, a list, or a mapping with keys of text")
        return arguments

    @model_validator(mode="after")
    def _check_normalisation(self) -> ArchitectureRecord:
        mean, std = self.mean or (), self.std or ()
        if len(mean) != len(std) or (std and not min(std) > 0):
            raise ValueError("mean and std are not one number for each channel, with every std above 0")
        return self


class ModelCard(Readable, _Record):
    """Everything about a stored model except its weights.

    Attributes:
        name: its name in the registry, a safe file name.
        recipe: the recipe it was trained with; None for a model that was registered from outside.
        architecture: how it is built, if it is not an encoder of ibrobust with decoders.
        width: of the encoder, if there is one; `latent_dim` and `encoder_outputs` too.
        latent_dim: D.
        encoder_outputs: outputs of the encoder, 2 * latent_dim if it gives Gaussians.
        fixed_power: whether the encoder's latents have fixed power.
        decoders: the stored decoders; the first is the default. A model with an architecture has only ``head``.
        clean_accuracy: on the whole test split, for each decoder.
        evaluations: results of attacks, audits and benchmarks, by name.
    """

    schema_version: int = SCHEMA_VERSION
    name: str
    description: str = ""
    recipe: Recipe | None
    dataset: DatasetRecord
    architecture: ArchitectureRecord | None = None
    width: Annotated[int, Field(ge=1)] | None = None
    latent_dim: Annotated[int, Field(ge=1)] | None = None
    encoder_outputs: Annotated[int, Field(ge=1)] | None = None
    fixed_power: bool = False
    decoders: Annotated[tuple[str, ...], Field(min_length=1)]
    weights: WeightsRecord
    training: TrainingRecord | None
    clean_accuracy: dict[str, AccuracyRecord]
    evaluations: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check_parts(self) -> ModelCard:
        for field in ("width", "latent_dim", "encoder_outputs"):
            if self.architecture is None and getattr(self, field) is None:
                raise ValueError(f"there is neither an architecture nor {field}")
        if len(set(self.decoders)) < len(self.decoders):
            raise ValueError(f"the decoders {', '.join(self.decoders)} are not all different")
        if unknown := sorted(set(self.clean_accuracy) - set(self.decoders)):
            raise ValueError(f"there is a clean accuracy of {unknown[0]}, which is not among the decoders")
        return self

    @property
    def images(self) -> str:
        """The name or path that the model's images are read from again."""
        if self.recipe is not None:
            return self.recipe.dataset
        return self.dataset.source if self.dataset.source is not None else self.dataset.name

    def _sentence(self) -> str:
        scores = ", ".join(f"{name} {percent(score.accuracy)}" for name, score in self.clean_accuracy.items())
        made = self.recipe.objective if self.recipe is not None else "registered from outside"
        return f"{self.name}, {made}, {self.dataset.name}; clean accuracy: {scores}"

    def _rows(self) -> list[tuple[str, str]]:
        data, training = self.dataset, self.training
        facts = [
            ("", self.name),
            ("recipe", "none: the model was registered from outside" if self.recipe is None else repr(self.recipe)),
            ("data", f"{data.name}: {data.num_train:,} training and {data.num_test:,} test images"),
            *((f"clean accuracy, {name}", percent(score.accuracy)) for name, score in self.clean_accuracy.items()),
        ]
        if training is not None:
            hardware = training.hardware
            facts.append(("trained", f"{training.epochs_run} epochs, {training.seconds:,.0f} s on {hardware}"))
        if self.evaluations:
            facts.append(("evaluations", ", ".join(self.evaluations)))
        return facts

    def to_text(self) -> str:
        """Return the card as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_card(path: Path) -> ModelCard:
    """Return the card in a YAML file, or in a JSON file.

    Raises:
        IbrobustError: the file cannot be read, has a newer schema, or is not a card.
    """
    fields = read_mapping_file(path, "model card")
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    if type(version) is not int or version < 1:
        raise IbrobustError(f"{str(path)!r} is not a model card: it has no schema_version. Remove or restore it.")
    if version > SCHEMA_VERSION:
        raise IbrobustError(
            f"The model card {str(path)!r} has schema {version}, but this ibrobust reads up to {SCHEMA_VERSION}: "
            "pip install --upgrade ibrobust."
        )
    try:
        return ModelCard.model_validate(fields, context=STORED)
    except ValidationError as error:
        fault = error.errors()[0]
        place = f" at {'.'.join(map(str, fault['loc']))}" if fault["loc"] else ""
        raise IbrobustError(
            f"The model card {str(path)!r} is damaged{place}: {fault['msg'].removeprefix('Value error, ')}. Restore it "
            "or train the model again."
        ) from error


def require_replaceable(path: Path) -> None:
    """Raise IbrobustError if there is a file that is no model card, and so must not be replaced by one."""
    if not path.exists():
        return
    try:
        read_card(path)
    except IbrobustError as error:
        raise IbrobustError(
            f"{str(path)!r} exists and is no model card that ibrobust can read, so it is not replaced: choose another "
            "folder or name, or remove that file."
        ) from error


def check_name(name: str, what: str = "model") -> None:
    """Raise IbrobustError unless `name`, of a model or `what` it is of, is a file name that is safe on every system."""
    if name.split(".")[0].lower() in _RESERVED:
        raise IbrobustError(
            f"The {what} name {name!r} is not a safe file name, because Windows reserves it: choose another name."
        )
    if name.lower().endswith(".lock"):
        raise IbrobustError(
            f"The {what} name {name!r} is not a safe file name, because lock files end in .lock: choose another name."
        )
    if not _NAME.fullmatch(name) or name.endswith("."):
        raise IbrobustError(
            f"The {what} name {name!r} is not a safe file name: choose another name, of up to 100 ASCII letters (a-z, "
            "A-Z), digits, '.', '_' and '-', that starts with a letter or digit and does not end with '.'."
        )

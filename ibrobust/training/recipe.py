"""Every setting of a training run: validated once, then frozen, read from and written to YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from ibrobust.atomic import write_text
from ibrobust.counts import MOST
from ibrobust.data.names import file_name, may_be_mirrored
from ibrobust.epsilon import read_epsilon
from ibrobust.errors import IbrobustError
from ibrobust.faults import clause
from ibrobust.home import recipes_dir
from ibrobust.mapping_files import read_mapping_file
from ibrobust.models.decoder_names import known_decoder
from ibrobust.suggestions import suggestion

if TYPE_CHECKING:
    from typing_extensions import Self

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
# The context in which a recipe is read from a card: its decoders may be of a package that is not installed here.
STORED = {"stored": True}


def _decoder(name: str, info: ValidationInfo) -> str:
    return name if info.context == STORED else known_decoder(name)


def _as_in_a_file(options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    """Return the options as a recipe file and a card hold them, so that a tuple is a list before a resumption too."""
    if info.context == STORED:  # an earlier card may hold an infinite number
        return options
    try:
        read: dict[str, Any] = json.loads(json.dumps(options, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(f"a value cannot be stored ({error}): give finite numbers, text, lists or mappings") from None
    return read


DecoderName = Annotated[str, AfterValidator(_decoder)]
Augmentation = Literal["none", "crop", "crop_flip"]
Optimizer = Literal["adam", "adamw", "sgd"]
Schedule = Literal["plateau", "one_cycle", "cosine", "constant"]
Precision = Literal["auto", "no", "bf16", "fp16"]

# The objectives whose loss is H[Z|Y] + (beta - 1) H[Z].
ENTROPY_OBJECTIVES = ("knn_ib", "soft_ib")

# Of ibrobust's own objectives.
WITH_BETA = (*ENTROPY_OBJECTIVES, "dib", "dvib", "ceb")
WITHOUT_BETA = ("cross_entropy", "adversarial")

# The best settings per objective, which replace the fields' own defaults (docs/method.md). Beside them, the data set
# decides whether images are mirrored.
BEST_WITH: dict[str, dict[str, Any]] = {
    "knn_ib": {
        "num_neighbors": 50,
        "neighbor_ratio": 4.0,
        "average_neighbors": True,
        "soft_share": 0.75,
        "memory_size": 2000,
        "fixed_power": True,
    },
    "soft_ib": {"memory_size": 5000, "fixed_power": True},
}

# What a recipe file says to its readers, see `ibrobust.training.presets`: no field of the recipe.
ABOUT = "about"


class _OneSentence(type(BaseModel)):  # type: ignore[misc]
    """Let `Recipe(...)` raise IbrobustError. An `__init__` would take the context from `model_validate`."""

    def __call__(cls, *args: Any, **fields: Any) -> Any:
        try:
            return super().__call__(*args, **fields)
        except ValidationError as error:
            raise IbrobustError(_sentence(error)) from None


class Recipe(BaseModel, metaclass=_OneSentence):
    """Every setting of a training. The defaults are the best settings per objective; `preset("paper")` is the paper's.

    Unknown fields and values out of range raise IbrobustError, in one sentence.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    dataset: Annotated[
        str,
        Field(
            min_length=1,
            description="cifar10, cifar10-jpeg, cifar100, svhn, mnist, digits, torchvision:NAME, hf:NAME, or an image "
            "folder or file",
        ),
    ] = "cifar10"
    objective: Annotated[
        str,
        Field(
            description="training objective: knn_ib, soft_ib (its surrogate), cross_entropy, adversarial, dvib, ceb, "
            "dib, or the name of a plugin's objective"
        ),
    ] = "knn_ib"
    beta: Annotated[float, Field(ge=0.0, description="weight of the bottleneck term; for knn_ib in [0, 1)")] = 0.03
    beta_warm_up: Annotated[
        Share, Field(description="share of the training in which beta rises linearly from 0 (knn_ib, soft_ib)")
    ] = 0.0
    num_neighbors: Annotated[
        int, Field(ge=1, le=MOST, description="neighbours k of the entropy estimator (knn_ib, dib)")
    ] = 3
    neighbor_ratio: Annotated[
        float, Field(gt=0.0, description="k for H[Z], as a multiple of k for H[Z|Y] (knn_ib)")
    ] = 1.0
    average_neighbors: Annotated[
        bool, Field(description="average the estimates for 1..k instead of using only the k-th (knn_ib, dib)")
    ] = False
    first_neighbors: Annotated[
        int | None, Field(ge=1, le=MOST, description="k at the start of training; it falls to num_neighbors (knn_ib)")
    ] = None
    neighbor_fall: Annotated[Share, Field(description="share of the training over which k falls (knn_ib)")] = 0.75
    soft_share: Annotated[
        Share, Field(description="first share of the training, below 1, which minimises the surrogate soft_ib (knn_ib)")
    ] = 0.0
    neighbor_sharpness: Annotated[
        float, Field(gt=0.0, description="power for H[Z] in the surrogate (soft_ib, and knn_ib with soft_share)")
    ] = 2.0
    class_sharpness: Annotated[
        float, Field(ge=0.0, description="power for H[Z|Y] in the surrogate (soft_ib, and knn_ib with soft_share)")
    ] = 0.5
    memory_size: Annotated[
        int,
        Field(
            ge=0,
            le=MOST,
            description="number of earlier latents that also serve as neighbours (knn_ib, soft_ib)",
        ),
    ] = 0
    noise: Annotated[bool, Field(description="add zero-entropy noise to the latents in training")] = True
    head_units: Annotated[
        int,
        Field(ge=0, le=MOST, description="units of a hidden layer of the head that is trained; 0 for a linear head"),
    ] = 0
    dropout: Annotated[Probability, Field(description="dropout rate in front of the head's last layer")] = 0.0
    dropconnect: Annotated[Probability, Field(description="DropConnect rate of the head's last layer")] = 0.0
    conditional: Annotated[bool, Field(description="dib compresses H[Z|Y], eq. (8), instead of H[Z], eq. (9)")] = False
    num_samples: Annotated[int, Field(ge=1, le=MOST, description="samples of each latent per step (dvib, ceb)")] = 1
    epsilon: Annotated[
        float,
        BeforeValidator(read_epsilon),
        Field(gt=0.0, le=1.0, description="epsilon of adversarial training, in [0, 1] scale or as 8/255"),
    ] = 8 / 255
    objective_options: Annotated[
        dict[str, Any],
        AfterValidator(_as_in_a_file),
        Field(description="further options, for objectives of other packages"),
    ] = {}

    width: Annotated[
        int, Field(ge=1, le=MOST, description="channels of the first stage; 64 is the standard ResNet18")
    ] = 64
    latent_dim: Annotated[int, Field(ge=1, le=MOST, description="latent dimensions")] = 128
    fixed_power: Annotated[
        bool, Field(description="centre the latents and fix their power, with one scalar for all dimensions")
    ] = False
    warm_start: Annotated[
        str | None,
        Field(
            min_length=1,
            description="stored model; the training starts from its encoder, with its normalisation of images",
        ),
    ] = None
    decoders: Annotated[
        tuple[DecoderName, ...],
        Field(
            description="decoders fitted on the frozen encoder, the first is the default: logistic, gaussian_mixture, "
            "resfc, or a plugin's"
        ),
    ] = ("logistic", "gaussian_mixture")

    resfc_units: Annotated[int, Field(ge=1, le=MOST, description="units of the resfc decoder's layers")] = 1024

    epochs: Annotated[int, Field(ge=1, le=MOST, description="passes over the training images")] = 20
    batch_size: Annotated[int, Field(ge=2, le=MOST, description="images per step")] = 125
    balanced_batches: Annotated[
        bool, Field(description="in a batch, the classes' numbers of images differ by at most one")
    ] = True
    augment: Annotated[
        Augmentation,
        Field(
            description="random padded crops, and flips; by default no flips of known data sets of digits, letters or "
            "signs"
        ),
    ] = "crop_flip"
    optimizer: Annotated[Optimizer, Field(description="optimiser")] = "adamw"
    learning_rate: Annotated[float, Field(gt=0.0, description="highest learning rate of the schedule")] = 0.01
    weight_decay: Annotated[float, Field(ge=0.0, description="weight decay")] = 1e-4
    schedule: Annotated[
        Schedule,
        Field(
            description="plateau multiplies the rate by sqrt(0.1) if the loss has not improved for over 10 epochs; it "
            "counts them from where the loss is no longer redefined"
        ),
    ] = "one_cycle"
    mixed_precision: Annotated[
        Precision, Field(description="autocast; auto means bf16 if the device has instructions for it, else no")
    ] = "auto"
    compile: Annotated[
        bool, Field(description="use torch.compile on the encoder in training: faster on GPUs, after about a minute")
    ] = False
    seed: Annotated[int, Field(ge=0, lt=2**63, description="seed of the initial weights, batches and noise")] = 0

    @model_validator(mode="wrap")
    @classmethod
    def _filled_up(cls, fields: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        """Fill omitted fields with the best settings of their objective, and of their data set.

        `model_fields_set` then holds what was given, without what was filled in.
        """
        if not isinstance(fields, dict):
            return handler(fields)
        given = set(fields)
        objective, dataset = fields.get("objective", "knn_ib"), fields.get("dataset")
        best = BEST_WITH.get(objective, {}) if isinstance(objective, str) else {}
        if isinstance(dataset, str) and not may_be_mirrored(dataset):
            best = {**best, "augment": "crop"}
        recipe = handler({**best, **fields})
        recipe.model_fields_set.intersection_update(given)
        return recipe

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Recipe:
        if self.dropout and self.dropconnect:
            raise ValueError(f"dropout {self.dropout} and dropconnect {self.dropconnect} are both set: choose one")
        if self.objective in ENTROPY_OBJECTIVES and self.beta >= 1.0:
            raise ValueError(f"beta {self.beta:g} of {self.objective} is not below 1: it would minimise H[Z] as well")
        if self.objective == "knn_ib" and self.soft_share == 1.0 and info.context != STORED:
            raise ValueError("soft_share 1 of knn_ib leaves no step for the estimator: lower it, or choose soft_ib")
        if len(set(self.decoders)) != len(self.decoders):
            raise ValueError(f"decoders {', '.join(self.decoders)} name one twice")
        return self

    @classmethod
    def parse(cls, fields: dict[str, Any]) -> Recipe:
        """Return the recipe with these fields; raise IbrobustError, in one sentence, if they are invalid."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise IbrobustError(_sentence(error)) from error

    @classmethod
    def from_yaml(cls, path: str | Path) -> Recipe:
        """Return the recipe in a YAML file; raise IbrobustError if it cannot be read or is invalid."""
        return cls.parse(read_fields(path))

    @classmethod
    def preset(cls, name: str) -> Recipe:
        """Return a recipe that ships with ibrobust; raise IbrobustError, with all names, if `name` is unknown.

        Its fields count as defaults, not as given: another objective may leave some unused.
        """
        return cls.from_yaml(preset_file(name)).given_only(())

    def given_only(self, names: Collection[str]) -> Recipe:
        """Return the same recipe, of which these fields alone count as given (`model_fields_set`)."""
        return type(self).model_construct(set(names), **dict(self))

    def __repr__(self) -> str:
        """Return the fields that differ from the defaults for the objective, as a call that gives this recipe."""
        plain = type(self)(objective=self.objective)
        changed = [name for name in type(self).model_fields if getattr(self, name) != getattr(plain, name)]
        if not may_be_mirrored(self.dataset):  # another data set's default
            changed.append("augment")
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in dict.fromkeys(["objective", *changed]))
        return f"{type(self).__name__}({fields})"

    def __str__(self) -> str:
        return repr(self)

    def to_yaml(self, path: str | Path) -> None:
        """Write the recipe, every field, to a YAML file."""
        write_text(Path(path), yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))

    def default_name(self) -> str:
        """Return a model name that distinguishes recipes, for example ``knn_ib-beta0.03-cifar10-w64-s0``."""
        parts = [self.objective]
        # Another package's objective may take no beta: then it is not in the name unless it was given.
        uses_beta = "beta" in self.model_fields_set
        if self.objective in WITH_BETA or (uses_beta and self.objective not in WITHOUT_BETA):
            parts.append(f"beta{self.beta:g}")
        if self.objective in ENTROPY_OBJECTIVES and not self.noise:
            parts.append("no_noise")
        if self.dropout:
            parts.append(f"dropout{self.dropout:g}")
        if self.dropconnect:
            parts.append(f"dropconnect{self.dropconnect:g}")
        parts += [file_name(self.dataset) or "data", f"w{self.width}", f"s{self.seed}"]
        return re.sub(r"[^A-Za-z0-9._-]", "_", "-".join(parts))


def read_fields(path: str | Path) -> dict[str, Any]:
    """Return the fields that a recipe file names, not yet validated; raise IbrobustError if it cannot be read."""
    fields = read_mapping_file(Path(path), "recipe")
    if not isinstance(fields, dict):
        raise IbrobustError(
            f"The recipe {str(path)!r} is not a mapping of fields to values: write lines such as epochs: 20."
        )
    return {name: value for name, value in fields.items() if name != ABOUT}


def preset_names() -> list[str]:
    """Return the names of the recipes that ship with ibrobust, sorted."""
    return sorted(path.stem for path in recipes_dir().glob("*.yaml"))


def preset_file(name: str) -> Path:
    """Return the file of a recipe that ships with ibrobust; raise IbrobustError, with all names, if it is unknown."""
    if name not in preset_names():
        near = suggestion(name, preset_names())
        hint = f"{near} All presets:" if near else "choose one of"
        raise IbrobustError(f"Unknown preset {name!r}: {hint} {', '.join(preset_names())}.")
    return recipes_dir() / f"{name}.yaml"


def _sentence(error: ValidationError) -> str:
    faults = error.errors()
    unknown = [str(fault["loc"][0]) for fault in faults if fault["type"] == "extra_forbidden"]
    if unknown:
        hint = suggestion(unknown[0], Recipe.model_fields, "correct it, or leave it out.")
        return f"A recipe has no field {unknown[0]!r}: {hint}"
    clauses = (clause(fault, ".".join(str(part) for part in fault["loc"])) for fault in faults)
    return f"The recipe is invalid: {'; '.join(clauses)}."

"""The study file: a base recipe, grids of varied settings, stored models, evaluations and figures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ibrobust.counts import MOST
from ibrobust.data.names import lasting_name
from ibrobust.epsilon import read_epsilon
from ibrobust.errors import IbrobustError
from ibrobust.faults import clause
from ibrobust.home import home, zoo_dir
from ibrobust.mapping_files import read_mapping_file
from ibrobust.models.decoder_names import HEAD, known_decoder
from ibrobust.registry import list_models
from ibrobust.registry.card import check_name
from ibrobust.suggestions import remedy, suggestion

Figure = Literal["fgsm", "attacks", "information_plane", "generalization"]


def _decoder(name: str) -> str:
    return name if name in (HEAD, "default") else known_decoder(name)


DecoderName = Annotated[str, AfterValidator(_decoder)]
Epsilon = Annotated[float, BeforeValidator(read_epsilon)]
# Of any norm: the checks of a study know the attack's.
Radius = Annotated[float, BeforeValidator(partial(read_epsilon, norm="L2"))]
Decoders = Annotated[
    tuple[DecoderName, ...],
    Field(description="decoders to evaluate, of which default is the model's first; by default all of them"),
]
Examples = Annotated[int | None, Field(ge=1, description="test images, spread evenly; by default all")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Sweep(_Part):
    """An FGSM sweep."""

    eps: Annotated[tuple[Epsilon, ...], Field(min_length=1)]
    n_examples: Examples = None
    decoders: Decoders = ()


def _several(given: Any) -> Any:
    """Return one value as a list of one."""
    return given if isinstance(given, list | tuple) else [given]


class AttackAt(_Part):
    """An attack with epsilons of its own, such as those of another norm, for some decoders or cells."""

    attack: str
    eps: Annotated[tuple[Radius, ...], Field(min_length=1)]
    decoders: Annotated[
        Decoders | None, Field(description="decoders to attack; by default those of the evaluation")
    ] = None
    cells: Annotated[
        tuple[str, ...], Field(description="shell patterns of the names of the cells to attack; by default all")
    ] = ()

    def is_for(self, cell: str) -> bool:
        """Return whether the cell of this name is attacked."""
        return not self.cells or any(fnmatchcase(cell, pattern) for pattern in self.cells)


class Attacks(_Part):
    """Attacks as on the command line, and their worst case in each norm."""

    attacks: Annotated[tuple[str | AttackAt, ...], Field(min_length=1)]
    eps: Annotated[tuple[Radius, ...], Field(description="of the attacks without epsilons of their own")] = ()
    n_examples: Examples = None
    decoders: Decoders = ()

    @model_validator(mode="after")
    def _check_epsilons(self) -> Attacks:
        if not self.eps and (attack := next((each for each in self.attacks if isinstance(each, str)), None)):
            raise ValueError(f"the attack {attack!r} has no epsilon: give eps")
        return self

    @property
    def runs(self) -> tuple[AttackAt, ...]:
        """Each attack with its epsilons and decoders."""
        given = (AttackAt(attack=each, eps=self.eps) if isinstance(each, str) else each for each in self.attacks)
        return tuple(
            each if each.decoders is not None else each.model_copy(update={"decoders": self.decoders}) for each in given
        )


class Audit(_Part):
    """The audit of each model."""

    eps: Annotated[
        tuple[Epsilon, ...],
        BeforeValidator(_several),
        Field(min_length=1, description="one audit each"),
    ] = (8 / 255,)
    quick: bool = True
    n_examples: Examples = None
    decoders: Decoders = ()
    surrogate: Annotated[
        str | None, Field(description="stored model whose adversarial images are also tried; by default none")
    ] = None
    attacks: Annotated[
        tuple[str, ...],
        Field(description="further attacks in L-infinity, as on the command line; they count in the worst case"),
    ] = ()


class InformationPlane(_Part):
    """Entropies of the test latents at chosen epochs."""

    epochs: Annotated[tuple[Annotated[int, Field(ge=1, le=MOST)], ...], Field(min_length=1)]
    n_examples: Examples = None
    num_neighbors: Annotated[int, Field(ge=1, le=MOST)] = 3


class Entropies(_Part):
    """Entropies of the test latents, as `ibrobust entropy` prints them, of the models that ibrobust built."""

    n_examples: Examples = None
    num_neighbors: Annotated[int, Field(ge=1, le=MOST)] = 3
    noise: bool = True


class Evaluations(_Part):
    """The evaluations of each cell, besides the clean accuracy of its decoders."""

    sweep: Sweep | None = None
    attacks: Attacks | None = None
    audit: Audit | None = None
    entropies: Entropies | None = None
    information_plane: InformationPlane | None = None
    train_accuracy: Annotated[
        bool, Field(description="also measure the accuracy on the training images, without augmentation")
    ] = False


def _partition(name: str) -> str:
    """Return `name`; raise IbrobustError if it is no Slurm name, since it becomes a line of the batch script."""
    if not re.fullmatch(r"\w[\w.+-]*(,\w[\w.+-]*)*", name, re.ASCII):
        raise IbrobustError(
            f"{name!r} is not a name of a Slurm partition: use letters, digits, '_', '.', '+' and '-', and commas "
            "between "
            "several"
        )
    return name


class Slurm(_Part):
    """The resources of one cell on Slurm."""

    partition: Annotated[str, AfterValidator(_partition)] | None = None
    gpus: Annotated[int, Field(ge=0, le=MOST)] = 0
    cpus: Annotated[int, Field(ge=1, le=MOST)] = 2
    memory_gib: Annotated[int, Field(ge=1, le=MOST)] = 8
    minutes: Annotated[
        int, Field(ge=1, le=MOST, description="time limit of a job, which then resumes from its checkpoint")
    ] = 60
    array: Annotated[int, Field(ge=1, le=MOST, description="number of jobs that may run at once")] = 16


class Study(_Part):
    """The content of a study file.

    A cell is a recipe, `base` plus one value for each field of a grid, which is trained; or a model, which is not.
    """

    name: str
    title: str = ""
    base: dict[str, Any] = {}
    grids: tuple[dict[str, Annotated[list[Any], Field(min_length=1)]], ...] = ()
    models: Annotated[
        tuple[str, ...],
        Field(description="stored models, shell patterns of their names, and references such as timm:NAME"),
    ] = ()
    evaluations: Evaluations = Evaluations()
    figures: tuple[Figure, ...] = ()
    slurm: Slurm = Slurm()

    @model_validator(mode="after")
    def _check_cells(self) -> Study:
        if not self.grids and not self.models:
            raise ValueError("there are neither grids nor models")
        if not self.grids and set(self.base) - {"dataset"}:
            raise ValueError("base is the recipe of the grids, and there are none: models take its dataset alone")
        return self

    @property
    def folder(self) -> Path:
        """Folder of the study's states, records, figures and report."""
        return studies_dir() / self.name

    def to_text(self) -> str:
        """Return the study as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def studies_dir() -> Path:
    """Return the folder of all studies."""
    return home() / "studies"


def shipped_studies() -> dict[str, Path]:
    """Return the study files of ibrobust itself, by name."""
    return {path.stem: path for path in sorted((zoo_dir() / "studies").glob("*.yaml"))}


def load_study(name_or_path: str, *, dataset: str | None = None, name: str | None = None) -> Study:
    """Return the study in a file, or the shipped one of that name.

    Args:
        name_or_path: of a YAML file, or a name of `shipped_studies`.
        dataset: the data set of the base recipe, instead of the file's.
        name: the study's name, instead of the file's.

    Raises:
        IbrobustError: the file or study does not exist, it is invalid, or a pattern of models fits no model.
    """
    study = read_study(_file(name_or_path))
    if name is not None:
        check_name(name, "study")
        study = study.model_copy(update={"name": name})
    grids = tuple(
        {field: list(map(lasting_name, values)) if field == "dataset" else values for field, values in grid.items()}
        for grid in study.grids
    )
    study = study.model_copy(update={"grids": grids})
    models = dict.fromkeys(found for wanted in study.models for found in _matching(wanted))
    study = study.model_copy(update={"models": tuple(models)})
    if dataset is not None and any("dataset" in grid for grid in study.grids):
        raise IbrobustError(
            f"A grid of the study {study.name!r} has its own data sets, and {dataset!r} would not replace them: leave "
            "dataset out, or change the study's file."
        )
    chosen = dataset if dataset is not None else study.base.get("dataset")
    if isinstance(chosen, str):
        chosen = lasting_name(chosen)  # a study can be resumed from any current folder
    if chosen is None:
        return study
    return study.model_copy(update={"base": {**study.base, "dataset": chosen}})


def stored_study(name_or_path: str) -> Study:
    """Return a study as it was run, by its name or its file; if it was not run yet, as its file says.

    Raises:
        IbrobustError: the study or file does not exist, or it is invalid.
    """
    stored = {path.parent.name: path for path in studies_dir().glob("*/study.yaml")}
    if name_or_path in stored:
        return read_study(stored[name_or_path])
    study = load_study(name_or_path)
    return read_study(stored[study.name]) if study.name in stored else study


def read_study(path: Path) -> Study:
    """Return the study in a YAML file; raise IbrobustError, in one sentence, if it is invalid."""
    fields = read_mapping_file(path, "study")
    if not isinstance(fields, dict):
        raise IbrobustError(f"The study {str(path)!r} is not a mapping: it needs at least a name, and grids or models.")
    try:
        study = Study.model_validate(fields)
    except ValidationError as error:
        # A mapping in a list of attacks is an attack with epsilons, not a text that went wrong.
        faults = [fault for fault in error.errors() if fault["loc"][-1:] != ("str",)] or error.errors()
        # A list whose only value is wrong is not empty.
        inside = {fault["loc"][:-1] for fault in faults}
        faults = [fault for fault in faults if fault["type"] != "too_short" or fault["loc"] not in inside]
        said = "; ".join(_sentence(fault) for fault in faults)
        raise IbrobustError(f"The study {str(path)!r} is invalid: {said}.") from error
    check_name(study.name, "study")
    return study


def _file(name_or_path: str) -> Path:
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = shipped_studies()
    if name_or_path not in shipped:
        choices = f"give the path of a study file, or one of {', '.join(shipped)}."
        similar = shipped if path.name == name_or_path else ()  # a path has no similar name
        raise IbrobustError(f"Unknown study {name_or_path!r}: {remedy(name_or_path, similar, choices)}")
    return shipped[name_or_path]


def _matching(wanted: str) -> list[str]:
    """Return the stored models of a shell pattern; any other name as it is."""
    if not set(wanted) & set("*?["):
        return [wanted]
    found = list_models(wanted)
    if not found:
        raise IbrobustError(f"No stored model is called like {wanted!r}: ibrobust list shows all.")
    return found


def _sentence(fault: Any) -> str:
    # Not the types among which an item may choose: str and AttackAt.
    parts = [part for part in fault["loc"] if part not in ("str", AttackAt.__name__)]
    place = ".".join(str(part) for part in parts)
    if fault["type"] != "extra_forbidden":
        return clause(fault, place)
    hint = suggestion(str(parts[-1]), _fields(parts[:-1]))
    return f"unknown field {place!r}{f' ({hint})' if hint else ''}"


def _fields(place: Sequence[Any]) -> list[str]:
    """Return the names of the fields that a part of the study has, by its place in the file."""
    kinds: list[type[BaseModel]] = [Study]
    for part in place:
        fields = [kind.model_fields[part] for kind in kinds if part in kind.model_fields]
        kinds = [kind for field in fields for kind in _parts(field.annotation)] or kinds
    return [name for kind in kinds for name in kind.model_fields]


def _parts(annotation: Any) -> list[type[BaseModel]]:
    if get_origin(annotation) is None and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for inner in get_args(annotation) for kind in _parts(inner)]

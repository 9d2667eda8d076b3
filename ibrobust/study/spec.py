"""The study file: a base recipe, grids of what varies, evaluations and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ibrobust.errors import IbrobustError
from ibrobust.evaluation.epsilon import check_epsilon, parse_epsilon
from ibrobust.home import home, zoo_dir
from ibrobust.registry.card import check_name

Figure = Literal["fgsm", "information_plane", "generalization"]


def _epsilon(value: Any) -> float:
    return parse_epsilon(value) if isinstance(value, str) else check_epsilon(float(value))


Epsilon = Annotated[float, BeforeValidator(_epsilon)]
Decoders = Annotated[tuple[str, ...], Field(description="names of decoders; by default all that a cell's model has")]
Examples = Annotated[int | None, Field(ge=1, description="test images, spread evenly; by default all")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Sweep(_Part):
    """An FGSM sweep."""

    eps: Annotated[tuple[Epsilon, ...], Field(min_length=1)]
    n_examples: Examples = None
    decoders: Decoders = ()


class Attacks(_Part):
    """Attacks as on the command line, and their worst case."""

    attacks: Annotated[tuple[str, ...], Field(min_length=1)]
    eps: Annotated[tuple[Epsilon, ...], Field(min_length=1)]
    n_examples: Examples = None
    decoders: Decoders = ()


class Audit(_Part):
    """The audit of each model."""

    eps: Epsilon = 8 / 255
    quick: bool = True
    n_examples: Examples = None
    decoders: Decoders = ()


class InformationPlane(_Part):
    """Entropies of the test latents at chosen epochs."""

    epochs: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    n_examples: Examples = None
    num_neighbors: Annotated[int, Field(ge=1)] = 3


class Evaluations(_Part):
    """What is measured of each cell, beside the clean accuracy of its decoders."""

    sweep: Sweep | None = None
    attacks: Attacks | None = None
    audit: Audit | None = None
    information_plane: InformationPlane | None = None
    train_accuracy: Annotated[bool, Field(description="also score the training images, without augmentation")] = False


class Slurm(_Part):
    """What a cell asks of Slurm."""

    partition: str | None = None
    gpus: Annotated[int, Field(ge=0)] = 0
    cpus: Annotated[int, Field(ge=1)] = 2
    memory_gib: Annotated[int, Field(ge=1)] = 8
    minutes: Annotated[int, Field(ge=1, description="time limit of a job; it goes on from its checkpoint after it")] = (
        60
    )
    array: Annotated[int, Field(ge=1, description="jobs that may run at once")] = 16


class Study(_Part):
    """A study as its file has it. A cell is a recipe: `base` with one value for each field of a grid on top."""

    name: str
    title: str = ""
    base: dict[str, Any] = {}
    grids: Annotated[tuple[dict[str, Annotated[list[Any], Field(min_length=1)]], ...], Field(min_length=1)]
    evaluations: Evaluations = Evaluations()
    figures: tuple[Figure, ...] = ()
    slurm: Slurm = Slurm()

    @property
    def folder(self) -> Path:
        """Where the study's states, records, figures and report are."""
        return studies_dir() / self.name

    def to_text(self) -> str:
        """Return the study as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def studies_dir() -> Path:
    """Return the folder of all studies that were run."""
    return home() / "studies"


def shipped_studies() -> dict[str, Path]:
    """Return the study files that come with ibrobust, by name."""
    return {path.stem: path for path in sorted((zoo_dir() / "studies").glob("*.yaml"))}


def load_study(name_or_path: str, *, dataset: str | None = None) -> Study:
    """Return the study in a file, or the shipped one of that name.

    Args:
        name_or_path: of a YAML file, or a name of `shipped_studies`.
        dataset: the data set of the base recipe in place of the file's.

    Raises:
        IbrobustError: there is no such file or study, or it is wrong.
    """
    path = Path(name_or_path)
    if not path.is_file():
        shipped = shipped_studies()
        if name_or_path not in shipped:
            there = f"; those that ship with ibrobust are {', '.join(shipped)}" if shipped else ""
            raise IbrobustError(f"There is no study {name_or_path!r}: give the path of a study file{there}.")
        path = shipped[name_or_path]
    study = read_study(path)
    if dataset is not None:
        study = study.model_copy(update={"base": {**study.base, "dataset": dataset}})
    return study


def read_study(path: Path) -> Study:
    """Return the study in a YAML file; raise IbrobustError, in one sentence, where it is wrong."""
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise IbrobustError(f"The study {str(path)!r} cannot be read: {' '.join(str(error).split())}.") from error
    if not isinstance(fields, dict):
        raise IbrobustError(f"The study {str(path)!r} is not a mapping: it needs at least a name and grids.")
    try:
        study = Study.model_validate(fields)
    except ValidationError as error:
        faults = [
            f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors()
        ]
        raise IbrobustError(f"The study {str(path)!r} is wrong: {'; '.join(faults)}.") from error
    check_name(study.name)
    return study

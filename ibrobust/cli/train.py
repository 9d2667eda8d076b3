"""`ibrobust train`: train a model from a recipe."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer

from ibrobust.cli.options import DataDir, Device
from ibrobust.epsilon import format_epsilon
from ibrobust.training.recipe import BEST_WITH, Recipe, preset_file, preset_names, read_fields

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from ibrobust.registry import ModelCard

RECIPE = "Recipe"

# Flags that differ from the field's name: shorter, or singular because the option can be repeated.
FLAGS = {"learning_rate": ("--learning-rate", "--lr"), "decoders": ("--decoder",)}


def _train(
    *,
    preset: Annotated[
        str | None, typer.Option(help="A recipe that ships with ibrobust, by name; --recipe and options override it.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="YAML file with recipe fields; options given here override it.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model. By default made from the recipe.")] = None,
    data_dir: DataDir = None,
    device: Device = None,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an unfinished run of this name.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model or run of this name.")] = False,
    log_with: Annotated[str | None, typer.Option(help="Also log to a tracker: tensorboard, wandb, mlflow, ...")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="A recipe field as FIELD=VALUE in YAML, or one of its keys: objective_options.margin=2.0 "
            "(repeatable).",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    recipe_fields: dict[str, Any],
) -> None:
    """Train a model, fit its decoders, score it and store it in the registry.

    The defaults are the best known settings. For knn_ib they minimise the surrogate soft_ib in the first three
    quarters of training, then use 50 neighbours, with fixed power. `--preset paper` is the paper's recipe.

    Presets: {presets}.
    """
    typed = _assigned(recipe_fields, set_ or [])
    final = _merged(preset, recipe, recipe_fields, set_ or [])
    title = name if name is not None else final.default_name()
    _check_names(final, title, overwrite=overwrite, log_with=log_with, device=device)
    if resume:
        _require_unfinished(title)

    # torch comes with these, seconds later.
    from rich.console import Console

    from ibrobust import processes, registry
    from ibrobust.training.build import refuse_unused
    from ibrobust.training.run_dir import unfinished_runs

    refuse_unused(final.given_only(typed))  # also beside a file with every field, of which not all were meant
    console = Console(stderr=True, quiet=not processes.is_main())
    try:
        card = registry.train(
            final,
            name=name,
            data_dir=data_dir,
            device=device,
            resume=resume,
            overwrite=overwrite,
            log_with=log_with,
            progress=True,
        )
    except KeyboardInterrupt:
        with_checkpoint = f"Interrupted. Add --resume to the same command to continue {title}."
        without = "Interrupted before the first checkpoint. Give the same command again."
        console.print(with_checkpoint if title in unfinished_runs() else without, markup=False)
        raise typer.Exit(130) from None
    if processes.is_main():
        _report(card)
    processes.leave()


def _merged(preset: str | None, file: Path | None, given: dict[str, Any], assigned: list[str]) -> Recipe:
    """Return the recipe of a preset, a file, options and --set, each of which overrides those before it."""
    # Of a preset, what its file names: another data set may have another default.
    fields = read_fields(preset_file(preset)) if preset else {}
    written = read_fields(file) if file else {}  # only what it names: validation would fill it up for its own objective
    recipe = Recipe.parse(_assigned({**fields, **written, **given}, assigned))
    return recipe.given_only({*written, *given, *_assigned({}, assigned)})


def _with_recipe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with one option per recipe field instead of its ``recipe_fields``.

    An omitted option is not in ``recipe_fields``, since it must not override a preset or a recipe file.
    """
    own = list(inspect.signature(command, eval_str=True).parameters.values())
    made = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name, field))
        for name, field in Recipe.model_fields.items()
        if name != "objective_options"  # a mapping: --set
    ]

    def run(**given: Any) -> None:
        fields = {parameter.name: given.pop(parameter.name) for parameter in made}
        command(**given, recipe_fields={name: value for name, value in fields.items() if value is not None})

    run.__doc__ = (command.__doc__ or "").format(presets=", ".join(preset_names()))
    parameters = [parameter for parameter in own if parameter.name != "recipe_fields"] + made
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _option(name: str, field: FieldInfo) -> Any:
    """Return the annotation of a field's option: its type, its description, its default in brackets."""
    inner = [kind for kind in get_args(field.annotation) if kind is not type(None)]
    if get_origin(field.annotation) is tuple:
        kind: Any = list[str] | None
    else:
        plain = inner[0] if inner and get_origin(field.annotation) is not Literal else field.annotation
        kind = (plain if plain in (int, float, bool) and name != "epsilon" else str) | None
    best = BEST_WITH["knn_ib"].get(name, field.default)
    shown = ", ".join(best) if isinstance(best, tuple) else f"{best:g}" if isinstance(best, float) else str(best)
    if name == "epsilon":
        shown = format_epsilon(field.default)
    choices = f"{', '.join(get_args(field.annotation))}; " if get_origin(field.annotation) is Literal else ""
    # Not in brackets: the help is rich's markup.
    text = f"{field.description} ({choices}default: {shown})" if best is not None else str(field.description)
    return Annotated[kind, typer.Option(*FLAGS.get(name, ()), help=text, rich_help_panel=RECIPE)]


train = _with_recipe_options(_train)


def _report(card: ModelCard) -> None:
    from ibrobust.cli.printing import print_table
    from ibrobust.data.names import attacked_images
    from ibrobust.reporting.tables import accuracy_table

    print_table(accuracy_table(card, images=attacked_images(card.images)))
    typer.echo(f"Next: ibrobust attack {card.name} --eps 2/255,4/255,8/255")


def _check_names(recipe: Recipe, name: str, *, overwrite: bool, log_with: str | None, device: str | None) -> None:
    """Raise IbrobustError if something that the training names does not exist, or if the model does."""
    from ibrobust.cli.request import check_names
    from ibrobust.registry import model_card
    from ibrobust.registry.card import check_name
    from ibrobust.registry.store import refuse_duplicate
    from ibrobust.training.quick_checks import check_objective, check_tracker

    check_objective(recipe.objective, recipe.objective_options)
    check_tracker(log_with)
    check_name(name)
    refuse_duplicate(name, overwrite=overwrite)
    check_names(dataset=recipe.dataset, device=device)
    if recipe.warm_start is not None:
        model_card(recipe.warm_start)


def _require_unfinished(name: str) -> None:
    """Raise IbrobustError if no run of this name can be resumed: a mistyped name would train from the start."""
    from ibrobust.errors import IbrobustError
    from ibrobust.training.run_dir import unfinished_runs

    unfinished = unfinished_runs()
    if name not in unfinished:
        runs = ", ".join(unfinished) or "none"
        raise IbrobustError(
            f"There is no unfinished run {name!r} (unfinished: {runs}): correct --name, or leave out --resume."
        )


def _assigned(fields: dict[str, Any], texts: list[str]) -> dict[str, Any]:
    """Return recipe fields with those of --set; FIELD.KEY=VALUE sets one key of a field that is a mapping."""
    import yaml

    from ibrobust.errors import IbrobustError
    from ibrobust.mapping_files import read_value, read_yaml

    fields = dict(fields)
    for text in texts:
        field, equals, value = text.partition("=")
        if not equals or not field:
            raise IbrobustError(f"--set {text!r} is not of the form FIELD=VALUE: write, for example, --set epochs=20.")
        name, dot, key = field.partition(".")
        name = name.replace("-", "_")
        try:
            # Every other field has a type, with which the recipe reads 1e-3.
            read = read_value(value) if name == "objective_options" else read_yaml(value)
        except (ValueError, yaml.YAMLError) as error:  # ValueError: a date that does not exist
            raise IbrobustError(f"--set {text!r}: the value is not YAML, or gives a key twice.") from error
        if dot:
            read = {**_mapping(fields.get(name), text), key: read}
        fields[name] = read
    return fields


def _mapping(value: Any, text: str) -> dict[str, Any]:
    from ibrobust.errors import IbrobustError

    if value is not None and not isinstance(value, dict):
        raise IbrobustError(f"--set {text!r}: this field is no mapping, so it has no keys.")
    return value or {}

"""`ibrobust train`: a model from a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ibrobust.registry import ModelCard

# Options that are not given must not override a recipe file, so none has a value of its own here; the recipe's
# defaults are named in the help instead.
RECIPE = "Recipe"


def train(
    preset: Annotated[
        str | None, typer.Option(help="A recipe that ships with ibrobust, by name; --recipe and options come on top.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="YAML file with recipe fields; options given here come on top.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="cifar10, digits, or an image folder with train/<class>/* and test/<class>/*. [cifar10]",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    objective: Annotated[str | None, typer.Option(help="Training objective. [knn_ib]", rich_help_panel=RECIPE)] = None,
    beta: Annotated[
        float | None,
        typer.Option(help="Weight of the bottleneck term, in [0, 1). [0.03]", rich_help_panel=RECIPE),
    ] = None,
    num_neighbors: Annotated[
        int | None, typer.Option(help="Neighbours k of the entropy estimator. [3]", rich_help_panel=RECIPE)
    ] = None,
    average_neighbors: Annotated[
        bool | None,
        typer.Option(help="Average the estimators for 1..k instead of using the k-th alone.", rich_help_panel=RECIPE),
    ] = None,
    noise: Annotated[
        bool | None,
        typer.Option(help="Zero-entropy noise on the latents in training. [noise]", rich_help_panel=RECIPE),
    ] = None,
    dropout: Annotated[
        float | None, typer.Option(help="Dropout rate before the linear head. [0]", rich_help_panel=RECIPE)
    ] = None,
    dropconnect: Annotated[
        float | None, typer.Option(help="DropConnect rate of the linear head. [0]", rich_help_panel=RECIPE)
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(help="Channels of the first stage; 64 is ResNet18. [64]", rich_help_panel=RECIPE),
    ] = None,
    latent_dim: Annotated[int | None, typer.Option(help="Latent dimensions. [256]", rich_help_panel=RECIPE)] = None,
    decoder: Annotated[
        list[str] | None,
        typer.Option(
            help="Decoder to fit on the frozen encoder (repeatable): gaussian_mixture, logistic, resfc. "
            "[gaussian_mixture, logistic]",
            rich_help_panel=RECIPE,
        ),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the images. [150]", rich_help_panel=RECIPE)] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step. [200]", rich_help_panel=RECIPE)] = None,
    augment: Annotated[
        str | None, typer.Option(help="none, crop or crop_flip. [crop_flip]", rich_help_panel=RECIPE)
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="adam, adamw or sgd. [adam]", rich_help_panel=RECIPE)] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", "--lr", help="Learning rate. [0.0005]", rich_help_panel=RECIPE),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(help="plateau, one_cycle, cosine or constant. [plateau]", rich_help_panel=RECIPE),
    ] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Weight decay. [0]", rich_help_panel=RECIPE)] = None,
    mixed_precision: Annotated[str | None, typer.Option(help="no, bf16 or fp16. [no]", rich_help_panel=RECIPE)] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random. [0]", rich_help_panel=RECIPE)] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other recipe field, as FIELD=VALUE (repeatable).", rich_help_panel=RECIPE),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the model. By default made from the recipe.")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where CIFAR-10 is or goes to, and decoded images are cached.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N. By default what is there.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an unfinished run of this name.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model or run of this name.")] = False,
    log_with: Annotated[str | None, typer.Option(help="Also log to a tracker: tensorboard, wandb, mlflow, ...")] = None,
) -> None:
    """Train a model, fit its decoders, score it and store it in the registry.

    The defaults are the paper's recipe: Adam at 5e-4, times sqrt(0.1) when the loss has not improved for more than
    10 epochs, 150 epochs.
    """
    fields = {
        "dataset": dataset,
        "objective": objective,
        "beta": beta,
        "num_neighbors": num_neighbors,
        "average_neighbors": average_neighbors,
        "noise": noise,
        "dropout": dropout,
        "dropconnect": dropconnect,
        "width": width,
        "latent_dim": latent_dim,
        "decoders": decoder,
        "epochs": epochs,
        "batch_size": batch_size,
        "augment": augment,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "schedule": schedule,
        "weight_decay": weight_decay,
        "mixed_precision": mixed_precision,
        "seed": seed,
    }
    given = {key: value for key, value in fields.items() if value is not None}
    given |= _assignments(set_ or [])

    from rich.console import Console

    from ibrobust import processes, registry
    from ibrobust.cli.progress import TrainingProgress
    from ibrobust.training.recipe import Recipe

    base = Recipe.preset(preset).model_dump() if preset else {}
    if recipe:
        base |= Recipe.from_yaml(recipe).model_dump(exclude_unset=True)
    final = Recipe.parse({**base, **given})
    console = Console(stderr=True, quiet=not processes.is_main())
    title = name if name is not None else final.default_name()
    try:
        with TrainingProgress(console, title) as progress:
            card = registry.train(
                final,
                name=name,
                data_dir=data_dir,
                device=device,
                resume=resume,
                overwrite=overwrite,
                log_with=log_with,
                on_progress=progress.update,
                on_stage=progress.stage,
            )
    except KeyboardInterrupt:
        console.print(f"Interrupted. The same command with --resume goes on with {title}.", markup=False)
        raise typer.Exit(130) from None
    if processes.is_main():
        _report(card)
    processes.leave()


def _report(card: ModelCard) -> None:
    from rich.console import Console

    from ibrobust.cli.printing import print_table
    from ibrobust.reporting.tables import accuracy_table

    print_table(accuracy_table(card))
    Console().print(f"Next: ibrobust attack {card.name} --eps 2/255,4/255,8/255", markup=False, soft_wrap=True)


def _assignments(texts: list[str]) -> dict[str, Any]:
    import yaml

    from ibrobust.errors import IbrobustError
    from ibrobust.mapping_files import read_yaml

    fields = {}
    for text in texts:
        field, equals, value = text.partition("=")
        if not equals or not field:
            raise IbrobustError(f"--set {text!r} is not of the form FIELD=VALUE.")
        try:
            fields[field.replace("-", "_")] = read_yaml(value)
        except yaml.YAMLError as error:
            raise IbrobustError(f"--set {text!r}: the value is not YAML, or gives a key twice.") from error
    return fields

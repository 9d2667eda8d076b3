"""From a recipe to untrained modules and their optimiser."""

from __future__ import annotations

import torch
from torch import nn

from ibrobust.data import Dataset, channel_statistics
from ibrobust.errors import IbrobustError
from ibrobust.models import Encoder, build_head
from ibrobust.objectives import Objective, build_objective, objective_class
from ibrobust.training.recipe import Recipe


def build_modules(recipe: Recipe, dataset: Dataset) -> tuple[Encoder, Objective]:
    """Return the encoder, normalising by the training images' statistics, and the objective of a recipe, untrained."""
    kind = objective_class(recipe.objective)
    mean, std = channel_statistics(dataset.train.images)
    encoder = Encoder(
        width=recipe.width,
        latent_dim=recipe.latent_dim * kind.outputs_per_latent,
        mean=mean,
        std=std,
        fixed_power=recipe.fixed_power,
    )
    return encoder, build_objective_of(recipe, dataset.num_classes)


def build_objective_of(recipe: Recipe, num_classes: int) -> Objective:
    """Return the objective of a recipe, untrained; raise IbrobustError if its fields contradict each other."""
    kind = objective_class(recipe.objective)
    options = {name: getattr(recipe, name) for name in kind.options if name != "head"}
    if "head" in kind.options:
        options["head"] = build_head(
            recipe.latent_dim,
            num_classes,
            units=recipe.head_units,
            dropout=recipe.dropout,
            dropconnect=recipe.dropconnect,
        )
    elif recipe.dropout or recipe.dropconnect or recipe.head_units:
        raise IbrobustError(
            f"The objective {recipe.objective!r} trains no linear head and no MLP, so dropout {recipe.dropout:g}, "
            f"dropconnect {recipe.dropconnect:g} and head_units {recipe.head_units} would have no effect: leave them "
            "out, or choose cross_entropy."
        )
    return build_objective(
        recipe.objective,
        latent_dim=recipe.latent_dim,
        num_classes=num_classes,
        **options,
        **recipe.objective_options,
    )


def check_fit(recipe: Recipe, dataset: Dataset, *, processes: int = 1) -> None:
    """Raise IbrobustError if the data set cannot fill the recipe's batches, or processes cannot share them equally."""
    if len(dataset.train) == 0:
        raise IbrobustError(
            f"The data set {dataset.name!r} has no training images: add them (in memory, with "
            "ibrobust.Dataset.of(test, train=...))."
        )
    if len(dataset.train) < recipe.batch_size:
        raise IbrobustError(
            f"The batch size {recipe.batch_size} is larger than the training set of {len(dataset.train)} images: "
            "lower it."
        )
    kind = objective_class(recipe.objective)
    if recipe.fixed_power and kind.outputs_per_latent != 1:
        raise IbrobustError(
            f"fixed_power would also fix the standard deviations that the encoder of {recipe.objective!r} learns: set "
            "fixed_power to false, or choose another objective."
        )
    most = max(recipe.num_neighbors, recipe.first_neighbors or 0)
    options = kind.options
    has_memory = "memory_size" in options and recipe.memory_size > 0
    held, what = (recipe.memory_size, "memory") if has_memory else (recipe.batch_size, "batch")
    per_class = held // dataset.num_classes
    if "num_neighbors" in options and per_class <= most:
        remedy = "memory_size" if has_memory else "the batch size"
        raise IbrobustError(
            f"A {what} of {held} has {per_class} images of each of the {dataset.num_classes} classes, too "
            f"few for {most} neighbours in every class: raise {remedy} to "
            f"{(most + 1) * dataset.num_classes} or more, or lower num_neighbors."
        )
    if recipe.batch_size % processes:
        raise IbrobustError(
            f"A batch of {recipe.batch_size} cannot be divided equally among {processes} processes: choose a batch "
            "size that can, or launch another number of processes."
        )


def build_optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the recipe's optimiser of these parameters."""
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=0.9, nesterov=True)

"""From a recipe to untrained modules and their optimiser."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ibrobust.data import Dataset, channel_statistics
from ibrobust.data.batches import check_balance
from ibrobust.data.names import NO_TRAINING, read_name
from ibrobust.epsilon import format_epsilon
from ibrobust.errors import IbrobustError
from ibrobust.home import expanded
from ibrobust.models import Encoder, build_head
from ibrobust.objectives import Objective, build_objective, list_objectives, objective_class
from ibrobust.training.recipe import Recipe


def build_modules(recipe: Recipe, dataset: Dataset) -> tuple[Encoder, Objective]:
    """Return the encoder, normalising by the training images' statistics, and the objective of a recipe, untrained.

    A warm start later replaces these statistics by the other model's.
    """
    kind = objective_class(recipe.objective)
    mean, std = channel_statistics(dataset.train.images)
    if any(std):  # one channel may be constant, as an empty one
        std = tuple(deviation or 1.0 for deviation in std)
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
    kind = _class_of(recipe.objective)
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
    objective = build_objective(
        recipe.objective,
        latent_dim=recipe.latent_dim,
        num_classes=num_classes,
        **options,
        **recipe.objective_options,
    )
    if any(is_lazy(tensor) for tensor in (*objective.parameters(), *objective.buffers())):
        raise IbrobustError(
            f"The objective {recipe.objective!r} has lazy layers, such as nn.LazyLinear, whose sizes are not known "
            "before the training: give each layer its size, as nn.Linear(latent_dim, num_classes)."
        )
    return objective


def _class_of(name: str) -> type[Objective]:
    """Return the class of an objective; raise IbrobustError if it names a field that recipes do not have."""
    kind = objective_class(name)
    named = {*kind.options} - {"head"} | {*kind.needs, *kind.needs.values()}
    if unknown := named - {*Recipe.model_fields}:
        raise IbrobustError(
            f"The class of the objective {name!r} names {', '.join(sorted(unknown))} in its options or needs, which is "
            "no field of a recipe: leave it out there, and give it in objective_options of the recipe."
        )
    return kind


def unused_fields(kind: type[Objective]) -> set[str]:
    """Return the fields of a recipe that an objective does not use, and others do."""
    specific = {option for name in list_objectives() for option in objective_class(name).options}
    unused = {field for field in Recipe.model_fields if field in specific and field not in kind.options}
    return unused if kind.adds_noise else {*unused, "noise"}


def unused_if_known(objective: str) -> set[str]:
    """Return `unused_fields` of an objective by its name, or none if its package is not installed."""
    try:
        return unused_fields(objective_class(objective))
    except IbrobustError:
        return set()


def without_effect(recipe: Recipe) -> dict[str, str]:
    """Return the fields that the objective uses, but not beside the recipe's others, each with the one that it needs.

    For example, `neighbor_fall` needs `first_neighbors`.
    """
    needs = _class_of(recipe.objective).needs
    return {field: other for field, other in needs.items() if not getattr(recipe, other)}


def refuse_unused(recipe: Recipe) -> None:
    """Raise IbrobustError if a value was given, other than the default, that has no effect.

    A recipe that ibrobust wrote has every field, so that not all of them were meant.
    """
    if recipe.model_fields_set >= set(Recipe.model_fields):
        return
    plain = Recipe(objective=recipe.objective)
    unused, needs = unused_fields(objective_class(recipe.objective)), without_effect(recipe)
    if "resfc" not in recipe.decoders:
        needs["resfc_units"] = "the decoder resfc"
    for field in sorted(recipe.model_fields_set & {*unused, *needs}):
        value = getattr(recipe, field)
        # Whoever gives an epsilon expects adversarial training, also with the default's value.
        if field == "epsilon" or value != getattr(plain, field):
            shown = format_epsilon(value) if field == "epsilon" else repr(value)
            if field in unused:
                users = [name for name in list_objectives() if field not in unused_fields(objective_class(name))]
                raise IbrobustError(
                    f"The objective {recipe.objective!r} does not use {field}, so {shown} would have no effect: leave "
                    f"it out, or choose {', '.join(users)}."
                )
            raise IbrobustError(
                f"The recipe does not use {field} without {needs[field]}, so {shown} would have no effect: leave it "
                f"out, or set {needs[field]}."
            )


def require_training_images(dataset: Dataset) -> None:
    """Raise IbrobustError, with the remedy for a file, a folder or images in memory, if there are none."""
    if len(dataset.train) > 0:
        return
    name, options = read_name(dataset.source) if dataset.source is not None else ("", {})
    if options.get("train") == NO_TRAINING:
        remedy = f"leave out train={NO_TRAINING}"
    elif name and expanded(name).is_file():
        remedy = "add train_images and train_labels to the file"
    elif name and expanded(name).is_dir():
        remedy = "add a folder train/<class>/*"
    elif name:
        remedy = "name its half with the option train"
    else:
        remedy = "give them with ibrobust.Dataset.of(test, train=...)"
    raise IbrobustError(f"The data set {dataset.name!r} has no training images: {remedy}.")


def check_fit(recipe: Recipe, dataset: Dataset, *, processes: int = 1) -> None:
    """Raise IbrobustError if a training of the recipe on the data set would fail, or estimate from copies of images.

    The images must fill the batches, and hold the neighbours of every class. The processes must share a batch equally.
    """
    require_training_images(dataset)
    if len(dataset.train) < recipe.batch_size:
        raise IbrobustError(
            f"The batch size {recipe.batch_size} is larger than the training set of {len(dataset.train)} images: "
            "lower it."
        )
    if recipe.balanced_batches:
        check_balance(len(dataset.train.labels.unique()), recipe.batch_size)
    kind = objective_class(recipe.objective)
    if recipe.fixed_power and kind.outputs_per_latent != 1:
        raise IbrobustError(
            f"fixed_power would also fix the standard deviations that the encoder of {recipe.objective!r} learns: set "
            "fixed_power to false, or choose another objective."
        )
    _check_decoders(recipe, dataset)
    if "num_neighbors" in kind.options:
        _check_neighbors(recipe, dataset)
    if recipe.batch_size % processes:
        raise IbrobustError(
            f"A batch of {recipe.batch_size} cannot be divided equally among {processes} processes: choose a batch "
            "size that can, or launch another number of processes."
        )


def _check_decoders(recipe: Recipe, dataset: Dataset) -> None:
    """Raise IbrobustError if a class has too few training images for a decoder that is fitted after the training."""
    sizes = dataset.train.labels.bincount(minlength=dataset.num_classes).tolist()
    for decoder, least in (("logistic", 1), ("gaussian_mixture", 2), ("resfc", 1)):
        few = [name for name, size in zip(dataset.class_names, sizes, strict=True) if size < least]
        if decoder in recipe.decoders and few:
            raise IbrobustError(
                f"The decoder {decoder!r} needs {least} or more training images of each class, and {dataset.name!r} "
                f"has fewer of the class {few[0]!r}: add images, give the data without that class, or leave "
                f"{decoder!r} out of decoders."
            )


def _check_neighbors(recipe: Recipe, dataset: Dataset) -> None:
    """Raise IbrobustError if an entropy of the objective has too few neighbours.

    Or if a batch would hold an image twice and the objective cannot tell: a copy is much nearer than any other image,
    so that an entropy would be far too small.
    """
    kind, batch, images = objective_class(recipe.objective), recipe.batch_size, len(dataset.train)
    num_classes = len(dataset.train.labels.unique())
    name, size = _smallest_class(dataset)
    first = (recipe.first_neighbors or 0) if "first_neighbors" in kind.options else 0
    most, field = max((recipe.num_neighbors, "num_neighbors"), (first, "first_neighbors"))
    memory = recipe.memory_size if "memory_size" in kind.options else 0
    within_classes = recipe.conditional or "conditional" not in kind.options  # dib estimates one entropy of the two
    if within_classes and size <= most:
        raise IbrobustError(
            f"The class {name!r} of {dataset.name!r} has {size} training images, too few for {most} neighbours: lower "
            "num_neighbors (and first_neighbors), add images, or leave the class out."
        )
    # A memory that is not full yet needs no number of neighbours: see `batch_knn_entropies`.
    points = f"A batch of {batch} and a memory of {memory} have" if memory else f"A batch of {batch} has"
    remedy = "memory_size" if memory else "the batch size"
    each = _images_of_each_class(num_classes, batch, memory)
    if within_classes and recipe.balanced_batches and each <= most:
        wanted = _memory_for(most + 1, num_classes, batch) if memory else (most + 1) * num_classes
        raise IbrobustError(
            f"{points} {each} images of each of the {num_classes} classes, too few for {most} neighbours in every "
            f"class: raise {remedy} to {wanted} or more, or lower {field}."
        )
    expected = (batch + memory) * size / images
    if within_classes and not recipe.balanced_batches and expected <= most:
        raise IbrobustError(
            f"{points} about {expected:.3g} images of the class {name!r}, too few for {most} neighbours: raise "
            f"{remedy}, set balanced_batches to true, or lower {field}."
        )
    ratio = recipe.neighbor_ratio if "neighbor_ratio" in kind.options else 1.0
    overall, others = round(ratio * most), min(batch + memory, images) - 1
    if overall > others:
        lower = f"neighbor_ratio (now {ratio:g})" if ratio > 1.0 else field
        more = f"raise {remedy}" if overall < images else "add images"
        raise IbrobustError(
            f"H[Z] would have {overall} neighbours, and the batch and the memory have at most {others} other images: "
            f"lower {lower}, or {more}."
        )
    distinct = num_classes * size
    if recipe.balanced_batches and not kind.knows_images and batch > distinct:
        raise IbrobustError(
            f"A balanced batch of {batch} would hold an image of the class {name!r} twice, since {dataset.name!r} has "
            f"{size} training images of it, so that an image would be its own neighbour: lower the batch size to "
            f"{distinct} or less, or set balanced_batches to false."
        )


def _images_of_each_class(num_classes: int, batch: int, memory: int) -> int:
    """Return how many images of any class balanced batches and their full memory hold at least.

    The memory holds whole batches, and a part of the oldest one, spread evenly over it (`LatentMemory`).
    """
    whole, part = divmod(memory, batch)
    share = batch // num_classes
    return (1 + whole) * share + share * part // batch


def _memory_for(count: int, num_classes: int, batch: int) -> int:
    """Return the smallest memory with which balanced batches hold `count` images of each class."""
    share = batch // num_classes
    whole, part = divmod(count - share, share)
    return whole * batch + -(-part * batch // share)


def _smallest_class(dataset: Dataset) -> tuple[str, int]:
    """Return the name of the class with the fewest training images, among those that have any, and their number."""
    sizes = dataset.train.labels.bincount(minlength=dataset.num_classes)
    smallest = int(torch.where(sizes > 0, sizes, len(dataset.train) + 1).argmin())
    return dataset.class_names[smallest], int(sizes[smallest])


def build_optimizer(recipe: Recipe, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Return the recipe's optimiser of these parameters."""
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=rate, weight_decay=decay)
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=0.9, nesterov=True)

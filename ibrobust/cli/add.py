"""`ibrobust add`: a model of your own, or one that somebody exported, into the registry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ibrobust.cli.options import DataDir
from ibrobust.errors import IbrobustError
from ibrobust.readable import per_cent
from ibrobust.suggestions import a_type

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ibrobust.data import Dataset


def add(
    source: Annotated[
        str,
        typer.Argument(
            help="package.module:function, timm:NAME or torchvision:NAME; or an exported model: its card (.yaml) or "
            "folder, or a repository of the Hugging Face Hub."
        ),
    ],
    name: Annotated[str | None, typer.Option(help="Name in the registry. By default an exported model's own.")] = None,
    weights: Annotated[Path | None, typer.Option(help="The model's weights (state_dict), a .safetensors file.")] = None,
    argument: Annotated[
        list[str] | None,
        typer.Option("--arg", help="Argument of the function (repeatable): num_classes=7."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="What the model was trained on: the name of a data set, a folder or a file.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(help="Channel means, if the model expects normalised images: 0.485,0.456,0.406.")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Channel standard deviations, as for --mean.")] = None,
    description: Annotated[str, typer.Option(help="One sentence for the card.")] = "",
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Allow the code that an exported model's card names. Read that code first."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model of this name.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Store your own model, or an exported one, in the registry."""
    if ":" not in source or source.endswith(".yaml"):
        own = {"--weights": weights, "--arg": argument, "--dataset": dataset, "--mean": mean, "--std": std}
        own["--description"] = description
        for option in (option for option, value in own.items() if value):
            raise IbrobustError(f"{source!r} is a model with a card, which says all: leave {option} out.")
        from ibrobust.home import models_dir, require_writable_folder
        from ibrobust.integrations.references import check_exported

        check_exported(source)
        require_writable_folder(models_dir())
        from ibrobust.integrations.huggingface import add_pretrained  # torch comes with it, seconds later

        _tell(add_pretrained(source, name=name, overwrite=overwrite, trust=trust))
        return
    if name is None:
        raise IbrobustError(f"The model {source!r} needs a name in the registry: give --name.")
    if dataset is None:
        raise IbrobustError(f"What {source!r} was trained on is not known: give --dataset, a name, folder or file.")
    from ibrobust.data.names import check_exists
    from ibrobust.function_names import require_module
    from ibrobust.registry.card import check_name
    from ibrobust.registry.store import refuse_duplicate

    check_name(name)
    refuse_duplicate(name, overwrite=overwrite)
    arguments = _arguments(argument or [])
    means, stds = _numbers("--mean", mean), _numbers("--std", std)
    if (mean is None) != (std is None):
        raise IbrobustError("--mean and --std go together: give both.")
    if weights is None and source.startswith(("timm:", "torchvision:")):
        # Its weights would be drawn at random. A factory of one's own may load them itself.
        raise IbrobustError(f"{source!r} alone has random weights: give its trained ones with --weights.")

    check_exists(dataset)
    if weights is not None and not weights.is_file():
        raise _unreadable(weights, "no such file")
    if not source.startswith(("timm:", "torchvision:")):
        require_module(source, f"The model {source!r}", forms="package.module:function, timm:NAME or torchvision:NAME")

    # torch comes with these, seconds later.
    from ibrobust.cli.attacking import read_data
    from ibrobust.models import normalized
    from ibrobust.registry import register_model
    from ibrobust.registry.outside import module_of

    # First what is quick to refuse.
    module = module_of(source, arguments, _state(weights))
    data = read_data(dataset, data_dir=data_dir)
    model = normalized(module, means, stds) if mean is not None else module
    data = _in_its_channels(model, data)
    model = _with_logits(model, data)
    card = register_model(
        name, model, dataset=data, factory=source, arguments=arguments, description=description, overwrite=overwrite
    )
    _tell(card)
    _warn(name, data)
    if weights is None:
        typer.echo(f"Note: Without --weights, the model is stored with the weights that {source} gave it.", err=True)


def _in_its_channels(model: nn.Module, data: Dataset) -> Dataset:
    """Return the data set with grey images in 1 channel if the model takes no 3."""
    if not data.is_grey or data.test.images.shape[1] == 1 or _output(model, data) is not None:
        return data
    grey = data.in_channels(1)
    return data if _output(model, grey) is None else grey


def _output(model: nn.Module, data: Dataset) -> Any:
    """Return the model's output for two images, or None if it raises an error."""
    import torch

    from ibrobust.data import to_unit_range
    from ibrobust.isolated_rng import isolated_rng

    try:
        with torch.no_grad(), isolated_rng():
            return model.eval()(to_unit_range(data.test.images[:2]))
    except Exception:  # said when the model is registered
        return None


def _with_logits(model: nn.Module, data: Dataset) -> nn.Module:
    """Return the model, with its logits taken out of its output or made two if it gives them in another form."""
    from torch import Tensor

    from ibrobust.models import logits_of, two_logits

    output = _output(model, data)
    if output is None:
        return model
    if not isinstance(output, Tensor):
        is_mapping = isinstance(output, Mapping)
        logits = output.get("logits") if is_mapping else getattr(output, "logits", None)
        if not isinstance(logits, Tensor):
            what = f"{a_type(output)} with the keys {', '.join(map(repr, output))}" if is_mapping else a_type(output)
            raise IbrobustError(
                f"The model gives {what} and no logits: write a function that returns a module with logits (B, C) "
                "alone, and give its name, package.module:function."
            )
        model, output = logits_of(model), logits
    count = min(len(data.test), 2)
    if isinstance(output, Tensor) and output.shape in ((count,), (count, 1)) and data.num_classes == 2:
        return two_logits(model)
    return model


def _state(path: Path | None) -> dict[str, Tensor] | None:
    if path is None:
        return None
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        why = "it is no safetensors file" if isinstance(error, SafetensorError) else str(error)
        raise _unreadable(path, why) from error


def _unreadable(weights: Path, why: str) -> IbrobustError:
    return IbrobustError(
        f"The weights {str(weights)!r} cannot be read ({why}): give a .safetensors file, as "
        "safetensors.torch.save_file(model.state_dict(), FILE) writes it."
    )


def _arguments(written: list[str]) -> dict[str, Any]:
    """Return arguments of a function: each NAME=VALUE, where a value is read as YAML is."""
    import yaml

    from ibrobust.mapping_files import read_value

    arguments: dict[str, Any] = {}
    for text in written:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise IbrobustError(f"--arg {text} is not of the form NAME=VALUE: write, for example, --arg num_classes=7.")
        if key in arguments:
            raise IbrobustError(f"--arg gives {key} twice: give it once.")
        try:
            arguments[key] = read_value(value)
        except (ValueError, yaml.YAMLError) as error:  # ValueError: a date that does not exist
            raise IbrobustError(f"--arg {text} has no value that can be read: write a number or a word.") from error
    return arguments


def _numbers(option: str, written: str | None) -> list[float]:
    try:
        return [float(part) for part in written.split(",")] if written else []
    except ValueError:
        raise IbrobustError(f"{option} {written} is not made of numbers: write 0.485,0.456,0.406.") from None


def _warn(name: str, data: Dataset) -> None:
    from ibrobust.evaluation.guarded_model import guard
    from ibrobust.evaluation.hints import warn_of_mistakes
    from ibrobust.registry import load_model

    warn_of_mistakes(guard(load_model(name)), data.test.images, data.test.labels, batch_size=250)


def _tell(card: Any) -> None:
    scores = ", ".join(
        f"{per_cent(record.accuracy, 2)}% of {record.total:,} images with {kind}"
        for kind, record in card.clean_accuracy.items()
    )
    typer.echo(f"Added {card.name}, clean accuracy on {card.dataset.name}: {scores}")

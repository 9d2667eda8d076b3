"""Stored models in the form of the Hugging Face Hub: a folder with config.json, model.safetensors and README.md.

config.json is the model's card. Loading reads these two files and nothing else: nothing is unpickled, and no code
is looked up by a name in them.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard as HubReadme
from huggingface_hub import ModelHubMixin, hf_hub_download
from torch import Tensor, nn

from ibrobust.atomic import flush_to_disk, require_folder
from ibrobust.errors import IbrobustError
from ibrobust.integrations.references import CONFIG, check_exported
from ibrobust.readable import per_cent
from ibrobust.registry import ModelCard
from ibrobust.registry.build import build_model
from ibrobust.registry.card import check_name, read_card, require_replaceable
from ibrobust.registry.export import portable_card
from ibrobust.registry.factories import allow, folder_of
from ibrobust.registry.store import pack_weights, read_model, read_weights, refuse_duplicate, write_model

WEIGHTS = "model.safetensors"
README = "README.md"

WRITTEN = "<!-- Written by ibrobust, which replaces this page with each model: remove this line to keep it. -->"
PAGE = """---
{{ card_data }}
---

{{ written }}

# {{ name }}

An image classifier in the form of ibrobust: images (B, C, H, W) in [0, 1] to logits.
{{ description }}

Trained on {{ dataset }} {{ origin }}. Clean accuracy: {{ accuracy }}.
{{ built }}

    from ibrobust.integrations.huggingface import load_pretrained
    model = load_pretrained("REPOSITORY OR FOLDER")
"""


_HOW_BUILT = (
    "The network itself is built by `{}`, which must be installed. Where that is code of your own, load the model with "
    "trust=True."
)


class HubModel(  # type: ignore[call-arg, unused-ignore]
    ModelHubMixin,
    library_name="ibrobust",
    tags=["adversarial-robustness"],
    model_card_template=PAGE,
):
    """A stored model with card and weights; `save_pretrained` and `push_to_hub` write it, `from_pretrained` reads it.

    Args:
        record: the model's card.
        tensors: its weights.
    """

    # Not `card` and `weights`: the mixin fills parameters from config.json by their names.
    def __init__(self, record: ModelCard, tensors: Mapping[str, Tensor]) -> None:
        self.record = record
        self.tensors = dict(tensors)

    def classifier(
        self, *, decoder: str | None = None, device: str | torch.device | None = None, trust: bool = False
    ) -> nn.Module:
        """Return the model: images (B, C, H, W) in [0, 1] -> logits (B, K), in evaluation mode."""
        target = torch.device(device if device is not None else "cpu")
        # A copy: the weights become the model's own parameters.
        weights = {key: tensor.clone() for key, tensor in self.tensors.items()}
        return build_model(self.record, weights, decoder=decoder, device=target, trust=trust)

    def generate_model_card(self, **fields: Any) -> HubReadme:
        """Return the README of the repository."""
        card = self.record
        accuracies = [
            f"{kind} {per_cent(record.accuracy, 2)}% of {record.total:,} images"
            for kind, record in card.clean_accuracy.items()
        ]
        own = {
            "written": WRITTEN,
            "name": card.name,
            "description": card.description,
            "dataset": card.dataset.name,
            "origin": f"with the objective `{card.recipe.objective}`" if card.recipe else "outside ibrobust",
            "built": _HOW_BUILT.format(card.architecture.factory) if card.architecture else "",
            "accuracy": ", ".join(accuracies) or "not measured",
        }
        return super().generate_model_card(**{**own, **fields})

    def save_pretrained(
        self, save_directory: str | Path, *, repo_id: str | None = None, push_to_hub: bool = False, **options: Any
    ) -> str | None:
        """Write the model to a folder; if that fails, the model that is there stays as it was.

        Args:
            save_directory: the folder, made if it is missing.
            repo_id: on the Hub; by default the folder's name.
            push_to_hub: push the model as well, and return the address of the commit.
            options: of `push_to_hub`.

        Raises:
            IbrobustError: the folder cannot be made, or holds a config.json or weights that are not of ibrobust.
        """
        folder = Path(save_directory)
        require_folder(folder, parents=True)
        require_replaceable(folder / CONFIG)
        if (folder / WEIGHTS).exists() and not (folder / CONFIG).exists():
            raise IbrobustError(
                f"The folder {str(folder)!r} holds a {WEIGHTS} without a {CONFIG}, so it is not replaced: choose "
                "another folder, or remove that file."
            )
        # Elsewhere, since the mixin removes the old files before it writes.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".", suffix=".tmp") as temporary:
            written = Path(temporary)
            super().save_pretrained(written, model_card_kwargs=options.get("model_card_kwargs"))
            for file in written.iterdir():
                flush_to_disk(file)
            page = folder / README
            if not page.is_file() or WRITTEN in page.read_text(encoding="utf-8", errors="replace"):
                (written / README).replace(page)  # else it is the user's own
            for name in (WEIGHTS, CONFIG):
                (written / name).replace(folder / name)
        return self.push_to_hub(repo_id or folder.resolve().name, **options) if push_to_hub else None

    def _save_pretrained(self, save_directory: Path) -> None:
        packed, content = pack_weights(self.record.name, self.tensors)
        (save_directory / WEIGHTS).write_bytes(content)
        weights = packed.model_copy(update={"file": WEIGHTS})
        fields = portable_card(self.record).model_copy(update={"weights": weights}).model_dump(mode="json")
        text = json.dumps(fields, indent=2, ensure_ascii=False)
        (save_directory / CONFIG).write_text(f"{text}\n", encoding="utf-8")

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> HubModel:  # type: ignore[override, unused-ignore]
        download = {
            key: options[key] for key in ("revision", "cache_dir", "force_download", "local_files_only", "token")
        }
        folder = Path(model_id)
        paths = [
            folder / file if folder.is_dir() else Path(hf_hub_download(repo_id=model_id, filename=file, **download))
            for file in (CONFIG, WEIGHTS)
        ]
        record = read_card(paths[0])
        return cls(record, read_weights(record, paths[0]))


def save_pretrained(name: str, folder: str | Path) -> Path:
    """Write a registered model to a folder in the Hugging Face form; return the folder.

    Raises:
        IbrobustError: the model does not exist, its weights are damaged, or `HubModel.save_pretrained` refuses.
    """
    folder = Path(folder)
    hub_model(name).save_pretrained(folder)
    return folder


def load_pretrained(
    folder_or_repo: str | Path,
    *,
    decoder: str | None = None,
    device: str | torch.device | None = None,
    revision: str | None = None,
    trust: bool = False,
) -> nn.Module:
    """Return a model from a folder or a repository of the Hub: images (B, 3, H, W) in [0, 1] -> logits (B, C).

    Args:
        folder_or_repo: a local folder, else ``OWNER/NAME`` on the Hub.
        decoder: one of the card's decoders; its first by default.
        device: where to put the model; the CPU by default.
        revision: branch, tag or commit on the Hub.
        trust: call the function that the card names to build the model. Only for code that you have read.

    Raises:
        IbrobustError: it is not there, cannot be downloaded, the weights do not have the card's SHA-256, or the card
            names a function that is not allowed on this machine.
    """
    return _fetch(folder_or_repo, revision).classifier(decoder=decoder, device=device, trust=trust)


def add_pretrained(
    folder_or_repo: str | Path,
    *,
    name: str | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    trust: bool = False,
) -> ModelCard:
    """Store a model from a folder or the Hub in the registry; return its card there.

    Args:
        folder_or_repo: as for `load_pretrained`, or the card (.yaml) of an exported model, or the folder of its card.
        name: in the registry; the card's own by default.
        revision: branch, tag or commit on the Hub.
        overwrite: replace a model of this name.
        trust: allow, from now on and on this machine, the function that the card names to build the model.

    Raises:
        IbrobustError: as for `load_pretrained`, or the name is taken or unsafe.
    """
    fetched = _fetch(folder_or_repo, revision)
    name = name if name is not None else fetched.record.name
    check_name(name)
    refuse_duplicate(name, overwrite=overwrite)
    for decoder in fetched.record.decoders:
        fetched.classifier(decoder=decoder, trust=trust)  # raises where the weights do not fit
    weights, content = pack_weights(name, fetched.tensors)
    card = fetched.record.model_copy(update={"name": name, "weights": weights})
    if trust and card.architecture is not None:
        allow(card.architecture, folder=folder_of(card.architecture, trust=True))
    write_model(card, content, overwrite=overwrite)
    return card


def hub_model(name: str) -> HubModel:
    """Return a registered model as a `HubModel`, for `push_to_hub`."""
    return HubModel(*read_model(name))


def _fetch(folder_or_repo: str | Path, revision: str | None) -> HubModel:
    source = check_exported(folder_or_repo)
    path = Path(source)
    if path.suffix == ".yaml":
        record = read_card(path)
        return HubModel(record, read_weights(record, path))
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)  # the error below says what its warnings say
    try:
        return HubModel.from_pretrained(source, revision=revision)
    except IbrobustError:
        raise
    # Validation, HTTP and connection errors of the Hub share no base class.
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise IbrobustError(
            f"{source!r} is neither a folder with {CONFIG} and {WEIGHTS} nor a repository of the Hugging "
            f"Face Hub that can be downloaded ({first.rstrip('.')}): check the name and the network."
        ) from error
    finally:
        log.setLevel(level)

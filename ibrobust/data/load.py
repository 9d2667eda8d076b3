"""The images of a ``--dataset`` value."""

from __future__ import annotations

from pathlib import Path

from ibrobust.data.array_file import load_array_file
from ibrobust.data.cifar10_jpeg import load_cifar10_jpeg
from ibrobust.data.dataset import Dataset
from ibrobust.data.digits import load_digits
from ibrobust.data.hugging_face import load_hugging_face
from ibrobust.data.image_folder import load_image_folder
from ibrobust.data.names import HUGGING_FACE, MEMORY, NAMED_DATASETS, TORCHVISION, check_exists, lasting_name, read_name
from ibrobust.data.pictures import Progress
from ibrobust.data.torchvision_sets import load_torchvision
from ibrobust.errors import IbrobustError
from ibrobust.home import data_dir as default_data_dir
from ibrobust.home import expanded
from ibrobust.live_line import following

_OF_TORCHVISION = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "svhn": "SVHN", "mnist": "MNIST"}


def load_dataset(
    spec: str | Path, *, data_dir: str | Path | None = None, progress: bool | Progress | None = None
) -> Dataset:
    """Return the data set of that name or path, as uint8 tensors on the CPU.

    Args:
        spec: ``cifar10``, ``cifar10-jpeg``, ``cifar100``, ``svhn``, ``mnist`` or ``digits``; ``torchvision:NAME``, as
            torchvision.datasets names it; ``hf:NAME`` of the Hugging Face Hub; or a path: an image folder with
            ``train/<class>/*`` and ``test/<class>/*`` (or ``val``), or an .npz or .safetensors file, see
            `load_array_file`. Options may follow, as in ``pets:test=val,size=64``: ``train`` and ``test`` name the
            folder or split of each half (``train=none`` reads no training images), ``size`` scales and crops images to
            a square, ``channels`` is 1 or 3.
        data_dir: folder for downloaded data sets and for the cache of decoded image folders; by default the
            ``data`` folder in ibrobust's home.
        progress: whether to show it; by default in a notebook or on a terminal. Or a function, called with (images
            done, total images) while JPEG files are downloaded or images are decoded.

    Raises:
        IbrobustError: the data set does not exist, or something in it cannot be read.

    Examples:
        >>> import ibrobust
        >>> digits = ibrobust.load_dataset("digits")
        >>> digits.train.images.shape, digits.test.labels.shape
        (torch.Size([1437, 3, 32, 32]), torch.Size([360]))
        >>> ibrobust.load_dataset("digits:channels=1").train.images.shape
        torch.Size([1437, 1, 32, 32])
    """
    spec = str(spec)
    check_exists(spec)
    name, options = read_name(spec)
    folder = expanded(data_dir) if data_dir is not None else default_data_dir()
    channels = _number(options.pop("channels", None))
    with following(progress, f"reading {spec}", lambda line: line.show) as report:
        try:
            dataset = _load(name, options, folder, report)
        except IbrobustError as error:
            if name in NAMED_DATASETS and Path(name).is_dir():
                hint = f"A folder {name!r} is here: write ./{name} to use it."
                raise IbrobustError(f"{hint} Otherwise: {error}") from error
            raise
    if channels is not None:
        dataset = dataset.in_channels(channels)
    return dataset.read_from(lasting_name(spec))


def _load(name: str, options: dict[str, str], folder: Path, progress: Progress | None) -> Dataset:
    if name.startswith(MEMORY):
        raise IbrobustError(
            f"The images of {name.removeprefix(MEMORY)!r} were given in memory, so they cannot be read again: name "
            "where they are, as `dataset`."
        )
    if name in ("digits", "cifar10-jpeg"):
        return load_digits() if name == "digits" else load_cifar10_jpeg(folder, progress=progress)
    halves = {"train": options.pop("train", None), "test": options.pop("test", None)}
    if name.startswith(TORCHVISION) or name in _OF_TORCHVISION:
        size = _number(options.pop("size", None))
        kind, shown = _OF_TORCHVISION.get(name, name.removeprefix(TORCHVISION)), name.removeprefix(TORCHVISION)
        return load_torchvision(kind, folder, **halves, size=size, options=options, shown_name=shown, progress=progress)
    if name.startswith(HUGGING_FACE):
        size = _number(options.pop("size", None))
        return load_hugging_face(
            name.removeprefix(HUGGING_FACE), **halves, size=size, options=options, progress=progress
        )
    path = expanded(name).resolve()
    if path.is_file():
        return load_array_file(path, **halves)
    size = _number(options.pop("size", None))
    return load_image_folder(path, **halves, size=size, cache=folder / "decoded", progress=progress)


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)

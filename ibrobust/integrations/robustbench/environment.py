"""Fixes, in memory only, for what prevents an installed RobustBench or timm from working."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.machinery import ModuleSpec
from importlib.metadata import Distribution, PackageNotFoundError, PackagePath, distribution
from pathlib import Path
from types import ModuleType

from ibrobust.errors import IbrobustError

_ADAPTED = "_adapted_by_ibrobust"


@dataclass(frozen=True)
class InstalledFiles:
    """A comparison of RobustBench's installed files with the hashes recorded at installation.

    Attributes:
        version: of RobustBench.
        checked: number of files with a recorded hash.
        overwritten: files replaced by torchattacks' own copy.
        changed: other files that are missing or not as recorded.
        repair: the command that restores RobustBench's own files.
    """

    version: str
    checked: int
    overwritten: tuple[str, ...]
    changed: tuple[str, ...]
    repair: str


def robustbench_files() -> InstalledFiles:
    """Return the comparison of RobustBench's files with their recorded hashes.

    torchattacks ships an old `robustbench` folder with the same paths: the one installed last remains.

    Raises:
        IbrobustError: RobustBench is not installed.
    """
    try:
        installed = distribution("robustbench")
    except PackageNotFoundError:
        raise IbrobustError("RobustBench is not installed: pip install robustbench.") from None
    intruders = _recorded_hashes("torchattacks")
    checked, overwritten, changed = 0, [], []
    for file in installed.files or []:
        if file.hash is None or file.suffix == ".pyc":
            continue
        checked += 1
        digest = _digest(file, file.hash.mode)
        if digest == file.hash.value:
            continue
        if digest is not None and digest == intruders.get(str(file)):
            overwritten.append(str(file))
        else:
            changed.append(str(file))
    return InstalledFiles(installed.version, checked, tuple(overwritten), tuple(changed), reinstall_command(installed))


def reinstall_command(installed: Distribution) -> str:
    """Return the command to reinstall the same version of a distribution, and nothing else."""
    requirement = f"{installed.metadata['Name']}=={installed.version}"
    if (installed.read_text("INSTALLER") or "").strip() == "uv":
        return f"uv pip install --reinstall --no-deps {requirement}"
    return f"python -m pip install --force-reinstall --no-deps {requirement}"


def adapt_robustbench() -> None:
    """Make `import robustbench` work in this process, without changing an installed file.

    Raises:
        IbrobustError: RobustBench or pyautoattack is missing, or torchattacks has overwritten RobustBench.
    """
    files = robustbench_files()
    if files.overwritten:
        raise IbrobustError(
            f"torchattacks has overwritten {len(files.overwritten)} files of RobustBench {files.version} with an old "
            f"copy: {files.repair}"
        )
    provide_pkg_resources()
    try:
        from ibrobust.integrations.robustbench import autoattack_module
    except ModuleNotFoundError as error:
        raise IbrobustError(f"{error.name} is not installed: pip install 'pyautoattack>=0.2,<0.3'.") from error
    autoattack_module.install()


def require_timm() -> None:
    """Raise IbrobustError if timm is not installed."""
    try:
        with imported_quietly():
            import timm  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise IbrobustError("timm is not installed: pip install timm.") from error


def adapt_timm() -> bool:
    """Make timm able to download from the Hugging Face Hub in this process; return whether a fix was needed.

    timm 1.0.9 imports all its names from huggingface_hub in one statement. Newer releases lack a name that only uploads
    need, so timm treats the whole package as missing.

    Raises:
        IbrobustError: timm is not installed, it cannot find huggingface_hub, or its download functions are missing.
    """
    require_timm()
    with imported_quietly():
        import timm
        from timm.models import _hub
    if getattr(_hub, "_has_hf_hub", True):
        return getattr(_hub, _ADAPTED, False)
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError
    except ImportError as error:
        raise IbrobustError(f"timm cannot download ({error}): pip install --upgrade huggingface_hub.") from error
    vars(_hub).update(
        {
            "hf_hub_download": partial(hf_hub_download, library_name="timm", library_version=timm.__version__),
            "EntryNotFoundError": EntryNotFoundError,
            "_has_hf_hub": True,
            _ADAPTED: True,
        }
    )
    return True


@contextmanager
def imported_quietly() -> Iterator[None]:
    """Silence packages whose import warns about their own use of outdated interfaces."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def provide_pkg_resources() -> bool:
    """Make `import pkg_resources` work if setuptools lacks it; return whether a stand-in was needed.

    RobustBench only uses its `resource_filename`.
    """
    if "pkg_resources" in sys.modules or importlib.util.find_spec("pkg_resources") is not None:
        return False
    module = ModuleType("pkg_resources", "Stands in for setuptools' pkg_resources: resource_filename alone.")
    module.__spec__ = ModuleSpec("pkg_resources", loader=None, origin=__file__)
    vars(module)["resource_filename"] = _resource_filename
    sys.modules["pkg_resources"] = module
    return True


def provides_pkg_resources() -> bool:
    """Return whether `pkg_resources` is our stand-in in this process."""
    return getattr(sys.modules.get("pkg_resources"), "resource_filename", None) is _resource_filename


def _resource_filename(package_or_module: str, resource: str) -> str:
    """Return the path of a file beside a module, as pkg_resources does outside zip files."""
    file = importlib.import_module(package_or_module).__file__
    if file is None:
        raise FileNotFoundError(f"{package_or_module} has no file, so there is no {resource} beside it")
    return str(Path(file).parent / resource)


def _recorded_hashes(name: str) -> dict[str, str]:
    try:
        files = distribution(name).files or []
    except PackageNotFoundError:
        return {}
    return {str(file): file.hash.value for file in files if file.hash is not None}


def _digest(file: PackagePath, mode: str) -> str | None:
    try:
        content = Path(str(file.locate())).read_bytes()
    except OSError:
        return None
    # A RECORD has unpadded URL-safe base64 (PEP 376).
    return base64.urlsafe_b64encode(hashlib.new(mode, content).digest()).rstrip(b"=").decode()

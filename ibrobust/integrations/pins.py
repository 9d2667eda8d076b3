"""Which installed packages want another version of a package than the one that is installed, as `pip check` says."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import Distribution, distributions

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name


def broken_pins(installed: Iterable[Distribution] | None = None) -> list[str]:
    """Return a few words on each requirement that is installed in another version than is wanted, sorted.

    A package that is missing is not listed: many are left out on purpose.

    Args:
        installed: the packages to look at; by default all of this environment.
    """
    packages = list(distributions() if installed is None else installed)
    versions = {canonicalize_name(package.metadata["Name"]): package.version for package in packages}
    found = set()
    for package in packages:
        for text in package.requires or ():
            try:
                wanted = Requirement(text)
            except InvalidRequirement:  # of the package's own making, and nothing that a user can fix
                continue
            there = versions.get(canonicalize_name(wanted.name))
            applies = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
            if applies and there is not None and not wanted.specifier.contains(there, prereleases=True):
                name = package.metadata["Name"]
                found.add(f"{name} {package.version} wants {wanted.name}{wanted.specifier}, {there} is there")
    return sorted(found)

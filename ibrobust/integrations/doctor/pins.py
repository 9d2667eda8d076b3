"""Which installed packages want another version of a package than the one that is installed, as `pip check` says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution, distribution, distributions, version

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name


def broken_pins() -> list[str]:
    """Return a few words on each requirement that is installed in another version than is wanted, sorted.

    A package that is missing is not listed: many are left out on purpose.
    """
    packages = list(distributions())
    versions: dict[str, str] = {canonicalize_name(package.metadata["Name"]): package.version for package in packages}
    return sorted({text for package in packages for text in _broken(package, versions)})


def broken_pins_of(name: str, wanted: Iterable[str]) -> list[str]:
    """Return the same about what one installed package requires of others, by their names."""
    versions: dict[str, str] = {canonicalize_name(other): version(other) for other in wanted}
    return sorted(_broken(distribution(name), versions))


def _broken(package: Distribution, versions: Mapping[str, str]) -> Iterator[str]:
    for text in package.requires or ():
        try:
            wanted = Requirement(text)
        except InvalidRequirement:  # of the package's own making, and nothing that a user can fix
            continue
        there = versions.get(canonicalize_name(wanted.name))
        applies = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if applies and there is not None and not wanted.specifier.contains(there, prereleases=True):
            name = package.metadata["Name"]
            yield f"{name} {package.version} wants {wanted.name}{wanted.specifier}, {there} is there"

"""Reading the YAML and JSON of recipes, studies and cards; a key that is given twice is an error."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

from ibrobust.errors import IbrobustError

MOST_BY_ALIASES = 100_000  # values of a file that has aliases


def read_mapping_file(path: Path, what: str) -> Any:
    """Return the content of a YAML file, or of a JSON file if `path` ends in ``.json``.

    Args:
        path: of the file, in UTF-8.
        what: the kind of file, for the error: ``recipe``.

    Raises:
        IbrobustError: the file cannot be read, is not YAML or JSON, or gives a key twice in one mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
        # JSON is not quite YAML: 1e-05 would be a text, and an escaped character beyond U+FFFF two halves.
        return json.loads(text, object_pairs_hook=_unique) if path.suffix == ".json" else read_yaml(text)
    except FileNotFoundError as error:
        raise IbrobustError(f"The {what} {str(path)!r} does not exist: correct the path.") from error
    except UnicodeDecodeError as error:
        raise IbrobustError(
            f"The {what} {str(path)!r} cannot be read: it is no text file, write it in UTF-8."
        ) from error
    # ValueError: text that is not JSON, and dates that do not exist.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise IbrobustError(f"The {what} {str(path)!r} cannot be read: {' '.join(str(error).split())}.") from error


def read_yaml(text: str) -> Any:
    """Return the content of a YAML text; raise yaml.YAMLError if it is not YAML or gives a key twice in one mapping."""
    return yaml.load(text, _Loader)


def read_value(text: str) -> Any:
    """Return a value as `read_yaml` does, but also each 1e-3 in it as a number, which is a text in YAML 1.1.

    It is not for a whole file, in which the name of a class or a model may be 1e3.
    """
    return yaml.load(text, _ValueLoader)


class _Loader(yaml.SafeLoader):
    """A loader that rejects equal keys, of which PyYAML's own keeps the last one, and aliases of very many values."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._values = 0  # so far, each alias counted as all that it stands for
        self._values_of: dict[int, int] = {}

    # Aliases of aliases make a text of a few lines too large for whatever goes through all values.
    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        is_alias, before = self.check_event(yaml.AliasEvent), self._values
        node = super().compose_node(parent, index)
        if is_alias:
            # None are known of an alias of what it is part of.
            self._values += self._values_of.get(id(node), MOST_BY_ALIASES + 1)
            if self._values > MOST_BY_ALIASES:
                raise yaml.YAMLError(f"its aliases (*) stand for more than {MOST_BY_ALIASES:,} values: write them out")
        else:
            self._values += 1
            self._values_of[id(node)] = self._values - before
        return node

    # Here, before merging: a key that is merged into a mapping (<<) may be given again.
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node: yaml.MappingNode = super().compose_mapping_node(anchor)
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node)
            if key in seen:
                raise yaml.YAMLError(f"{_twice(key)} (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return node


class _ValueLoader(_Loader):
    """A loader that also reads numbers with an exponent and no point, or no sign of the exponent."""


def _number(_: _ValueLoader, node: yaml.ScalarNode) -> float | str:
    number = float(node.value)
    return number if math.isfinite(number) else str(node.value)


_ValueLoader.add_implicit_resolver(
    "!exponent", re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), [*"-+.0123456789"]
)
_ValueLoader.add_constructor("!exponent", _number)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        if key in mapping:
            raise ValueError(_twice(key))
        mapping[key] = value
    return mapping


def _twice(key: Any) -> str:
    return f"the key {key!r} is given twice, but only one value can be used"

"""Yaml files as plain values, read as Hydra reads them, where Hydra is not installed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

import yaml

from harness.core.errors import ConfigError, explain

DEPTH = 50
"""Most levels of nested values in a file: OmegaConf reads no more than about twice as many."""

VALUES = 20_000
"""Most values of a file once its aliases are followed; the largest that ships has a few hundred."""


class LimitedLoader:
    """Mixin for loaders: what is too deep, too much with its aliases, or invalid is a YAMLError."""

    def __init__(self, stream: Any) -> None:
        try:
            super().__init__(stream)  # type: ignore[call-arg]
        except UnicodeDecodeError as error:
            raise yaml.YAMLError(f"not UTF-8: byte 0x{error.object[error.start]:02x} at {error.start}{_named(stream)}") from error
        self._named = _named(stream)

    def get_single_node(self) -> yaml.Node | None:
        """Return the root, before values are made of it, which repeats what aliases stand for."""
        try:
            node: yaml.Node | None = super().get_single_node()  # type: ignore[misc]
        except RecursionError as error:
            raise yaml.YAMLError(f"more than {DEPTH} nested levels{self._named}") from error
        if node is not None:
            self._require_small(node)
        return node

    def get_single_data(self) -> Any:
        """Return the values of the file; a tag that its text does not fit is a YAMLError."""
        try:
            return super().get_single_data()  # type: ignore[misc]
        except (RecursionError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise yaml.YAMLError(f"an invalid value{self._named}: {error}") from error

    def _require_small(self, root: yaml.Node) -> None:
        level, count = [root], 1
        for _ in range(DEPTH + 1):
            parts = [node.value for node in level if isinstance(node, yaml.CollectionNode)]
            count += sum(map(len, parts))
            if count > VALUES:
                raise yaml.YAMLError(f"more than {VALUES:,} values, once its aliases are followed{self._named}")
            level = [one for part in parts for item in part for one in (item if isinstance(item, tuple) else (item,))]
            if not level:
                return
        raise yaml.YAMLError(f"more than {DEPTH} nested levels, or a value inside itself{self._named}")


def _named(stream: Any) -> str:
    return f" in {stream.name}" if hasattr(stream, "name") else ""


class _Loader(LimitedLoader, yaml.SafeLoader):  # type: ignore[misc]
    """Reads ``1e-4`` as a number and a date as text; rejects a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if key.tag == yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG]
        if twice := next((key for key, times in Counter(keys).items() if times > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"found duplicate key {twice}", node.start_mark)
        return cast(dict[Hashable, Any], super().construct_mapping(node, deep=deep))


_DATE = "tag:yaml.org,2002:timestamp"
_EXPONENT = re.compile(r"[-+]?[0-9]+(_[0-9]+)*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != _DATE] for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a yaml file of one mapping. Raises ConfigError."""
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or a name with a null byte
        raise ConfigError(explain(str(path), got=f"a file that is not yaml ({str(error).splitlines()[0]})")) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(explain(str(path), got=type(values).__name__, allowed="a mapping"))
    return cast(dict[str, Any], values)


def first_sentence(path: Path) -> str:
    """Return the first sentence of a file's comment, which may take several lines."""
    found: list[str] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("# "):
            break
        found.append(line[2:].strip())
        if found[-1].endswith((".", ":", "?")):
            break
    return " ".join(found)

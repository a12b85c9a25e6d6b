"""Yaml files as plain values, read as Hydra reads them, where Hydra is not installed."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, cast

import yaml

from harness.core.errors import ConfigError, explain


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Reads ``1e-4`` as a number and a date as text; rejects a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [key.value for key, _ in node.value if key.tag == yaml.resolver.BaseResolver.DEFAULT_SCALAR_TAG]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
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
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(explain(str(path), got=f"a file that is not yaml ({str(error).splitlines()[0]})")) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(explain(str(path), got=type(values).__name__, allowed="a mapping"))
    return cast(dict[str, Any], values)

"""YAML as people mean it: the scalars of YAML 1.2's core schema, where `no` is text (a language), `010` is ten and
`2e-6` a number.

PyYAML reads YAML 1.1, in which `no`, `on` and `off` are truth values, `010` is eight, `1:30` is ninety and `2024-01-01`
a date.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

# YAML 1.2.2, section 10.3.2, without octal and hexadecimal numbers, which no file of ours has a use for.
_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}


for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"(?:{_pattern})\Z"), list(_first))
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<\Z"), ["<"])
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))


def read_yaml(text: str) -> Any:
    """The document in `text`, plain data only. Raises yaml.YAMLError for anything else."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  (a SafeLoader)
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, `!!int ''`, or nesting without end
        raise yaml.YAMLError(str(error)) from None

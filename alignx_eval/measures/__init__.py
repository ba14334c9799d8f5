"""Measures: functions over arrays and strings, one file each. They know no model, no file and no language list of a
run.

The names below take arrays [lines, width], row i of both of the same line, and give numbers. They are loaded when asked
for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alignx_eval.measures.cka import biased_cka, debiased_cka
    from alignx_eval.measures.cosine import cosine_matrix, paired_cosine
    from alignx_eval.measures.retrieval import precision_at_1

__all__ = ["biased_cka", "cosine_matrix", "debiased_cka", "paired_cosine", "precision_at_1"]

_MODULES = {
    "biased_cka": "cka",
    "cosine_matrix": "cosine",
    "debiased_cka": "cka",
    "paired_cosine": "cosine",
    "precision_at_1": "retrieval",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

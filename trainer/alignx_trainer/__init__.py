"""The two-stage AlignX trainer (arXiv 2509.24338): contrastive alignment at a middle layer, language matching at the
last, then instruction tuning.

    from alignx_trainer import load_recipe, train

    checkpoint = train(load_recipe("demo", ["steps=10"]), Path("runs/demo"))

The names are loaded when they are asked for: `import alignx_trainer` loads nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alignx_trainer.config import Recipe, load_recipe
    from alignx_trainer.training import train

__all__ = ["Recipe", "load_recipe", "train"]

_HOMES = {"Recipe": "alignx_trainer.config", "load_recipe": "alignx_trainer.config", "train": "alignx_trainer.training"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

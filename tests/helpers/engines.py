"""The suites over checkpoints: tests that are about one model name the checkpoint, and the engine over transformers is
put under it."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import alignx_eval.suites.language_id
import alignx_eval.suites.language_modelling
import alignx_eval.suites.layers
import alignx_eval.suites.tasks
import alignx_eval.suites.translation
from alignx_eval.engine.transformers_engine import TransformersEngine
from alignx_eval.evaluate import evaluate as evaluate_engine


class OnCheckpoints:
    """A suite's module whose `run` and `check` take a checkpoint."""

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def run(self, checkpoint: Any, *arguments: Any, **options: Any) -> Any:
        return self._module.run(TransformersEngine(checkpoint), *arguments, **options)

    def check(self, checkpoint: Any, *arguments: Any, **options: Any) -> Any:
        return self._module.check(TransformersEngine(checkpoint), *arguments, **options)


layers = OnCheckpoints(alignx_eval.suites.layers)
language_id = OnCheckpoints(alignx_eval.suites.language_id)
language_modelling = OnCheckpoints(alignx_eval.suites.language_modelling)
translation = OnCheckpoints(alignx_eval.suites.translation)
tasks = OnCheckpoints(alignx_eval.suites.tasks)


def evaluate(checkpoint: Any, *arguments: Any, **options: Any) -> Any:
    return evaluate_engine(TransformersEngine(checkpoint), *arguments, **options)

"""Evaluate what multilingual alignment did to a causal language model: where it helped, and at what price.

    import alignx_eval as ax

    comparison = ax.compare("bundled:base", "bundled:alignx", control="bundled:tuned", suites=["layers"], limit=100)
    report = ax.judge(comparison)
    ax.save(report, "report.html")

Nothing is loaded before a name is asked for. These names are provisional until release 0.2.0; everything else may move.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from alignx_eval import measures as measures
    from alignx_eval.api import Run as Run
    from alignx_eval.api import compare as compare
    from alignx_eval.api import judge as judge
    from alignx_eval.api import measure as measure
    from alignx_eval.api import read_run as read_run
    from alignx_eval.checkpoint import Checkpoint as Checkpoint
    from alignx_eval.checkpoint import open_checkpoint as open_checkpoint
    from alignx_eval.comparison.rows import Comparison as Comparison
    from alignx_eval.comparison.rows import ComparisonRow as ComparisonRow
    from alignx_eval.corpora import ParallelCorpus as ParallelCorpus
    from alignx_eval.corpora import load_corpus as load_corpus
    from alignx_eval.errors import AlignxError as AlignxError
    from alignx_eval.errors import InputError as InputError
    from alignx_eval.errors import MissingAssetError as MissingAssetError
    from alignx_eval.errors import NotComparableError as NotComparableError
    from alignx_eval.judgement.policy import Policy as Policy
    from alignx_eval.judgement.report import Report as Report
    from alignx_eval.metrics import METRICS as METRICS
    from alignx_eval.metrics import Metric as Metric
    from alignx_eval.render.save import save as save
    from alignx_eval.results import Row as Row
    from alignx_eval.results import SuiteResult as SuiteResult

_PUBLIC = {
    "api": ("Run", "compare", "judge", "measure", "read_run"),
    "checkpoint": ("Checkpoint", "open_checkpoint"),
    "comparison.rows": ("Comparison", "ComparisonRow"),
    "corpora": ("ParallelCorpus", "load_corpus"),
    "errors": ("AlignxError", "InputError", "MissingAssetError", "NotComparableError"),
    "judgement.policy": ("Policy",),
    "judgement.report": ("Report",),
    "metrics": ("METRICS", "Metric"),
    "render.save": ("save",),
    "results": ("Row", "SuiteResult"),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = [
    "AlignxError",
    "Checkpoint",
    "Comparison",
    "ComparisonRow",
    "InputError",
    "METRICS",
    "Metric",
    "MissingAssetError",
    "NotComparableError",
    "ParallelCorpus",
    "Policy",
    "Report",
    "Row",
    "Run",
    "SuiteResult",
    "compare",
    "judge",
    "load_corpus",
    "measure",
    "measures",
    "open_checkpoint",
    "read_run",
    "save",
]


def __getattr__(name: str) -> Any:
    if name == "measures":
        return import_module("alignx_eval.measures")
    if name not in _HOME:
        raise AttributeError(f"module 'alignx_eval' has no attribute {name!r}")
    value = getattr(import_module(f"alignx_eval.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

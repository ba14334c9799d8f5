"""Numbers and phrases: how a number, a difference, a p value, a duration or a list is written. One place."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from alignx_eval.metrics import PERCENT_SCALE


def signed(value: float | None, decimals: int) -> str:
    """The number with its sign; none on a rounded 0, "?" for None."""
    if value is None:
        return "?"
    text = f"{value:+.{decimals}f}"
    return text if float(text) else text[1:]


def counted(count: int, of: int, unit: str) -> str:
    """ "18 directions", "1 language", "9 of 10 languages"."""
    return f"{count if count == of else f'{count} of {of}'} {unit}{'' if of == 1 else 's'}"


def join(parts: Sequence[str]) -> str:
    """ "a, b and c"."""
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


def _count(number: int, unit: str) -> str:
    return f"{number} {unit}{'' if number == 1 else 's'}"


def _size(sizes: Iterable[tuple[int, int]]) -> str:
    """ "n = 452, 261 clusters", or the ranges."""
    ends = [(min(numbers), max(numbers)) for numbers in zip(*sizes, strict=True)]
    n, clusters = (str(low) if low == high else f"{low} to {high}" for low, high in ends)
    return f"n = {n}, {clusters} clusters"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def quantity(value: float | None, unit: str = "") -> str:
    """A large number in three digits with an SI prefix: 6.5 M, 1.20 P."""
    if value is None:
        return "–"
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}".rstrip()
    return f"{value:.3g} {unit}".rstrip()


def duration(seconds: float | None) -> str:
    """Seconds for people: 45 s, 12 min 30 s, 3 h 5 min."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def number(value: float | None, metric: str = "") -> str:
    """A value with as many decimals as the metric deserves; never NaN."""
    if value is None or not math.isfinite(value):
        return "–"
    decimals = 1 if metric.startswith(PERCENT_SCALE) or abs(value) >= 100 else 3
    return _minus(f"{value:.{decimals}f}")


def difference(value: float | None, metric: str = "") -> str:
    """A signed difference, one decimal more than the values of metrics on a scale of 100."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:+.{2 if metric.startswith(PERCENT_SCALE) else 3}f}"
    return _minus(text) if float(text) else text[1:]


def _plain(value: float | None, metric: str) -> str:
    """A difference without a plus sign."""
    return difference(value, metric).removeprefix("+")


def size(value: float | None, metric: str = "") -> str:
    """The size of a difference, without a sign."""
    return difference(None if value is None else abs(value), metric).removeprefix("+")


def probability(p: float | None) -> str:
    if p is None or not math.isfinite(p):
        return "–"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _minus(text: str) -> str:
    if text.startswith("-") and not float(text):
        text = text[1:]
    return text.replace("-", "−")


_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def clean(text: Any) -> str:
    """Text that every output may carry: control characters and lone surrogates become U+FFFD, line ends become \\n."""
    return _UNPRINTABLE.sub("�", str(text).replace("\r\n", "\n").replace("\r", "\n"))


def finite(value: Any) -> Any:
    """A copy of plain data in which no number is NaN or infinite (those become None) and all text is clean."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [finite(item) for item in value]
    if value is None or isinstance(value, (bool, int)):
        return value
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return finite(value.tolist())
    return clean(value)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _one_line(error: BaseException | str, limit: int = 240) -> str:
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)) or type(error).__name__
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."

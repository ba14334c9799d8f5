"""Numbers and phrases: how a number, a difference, a p value, a duration or a list is written. One place."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from alignx_eval.metrics import metric_card


def counted(count: int, of: int, unit: str) -> str:
    """ "18 directions", "1 language", "9 of 10 languages"."""
    return f"{count if count == of else f'{count} of {of}'} {unit}{'' if of == 1 else 's'}"


def join(parts: Sequence[str]) -> str:
    """ "a, b and c"."""
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)


def count(number: int, unit: str) -> str:
    """ "1 language", "3 languages"."""
    return f"{number} {unit}{'' if number == 1 else 's'}"


def sample_size(sizes: Iterable[tuple[int, int]]) -> str:
    """ "n = 452, 261 clusters" of (n, clusters), or the ranges; empty without any."""
    columns = list(zip(*sizes, strict=True))
    if not columns:
        return ""
    ends = [(min(numbers), max(numbers)) for numbers in columns]
    n, clusters = (str(low) if low == high else f"{low} to {high}" for low, high in ends)
    return f"n = {n}, {clusters} clusters"


def finite_number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def quantity(value: float | None, unit: str = "") -> str:
    """A large number in three digits with an SI prefix: 6.5 M, 1.20 P."""
    if value is None:
        return "–"
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}".rstrip()
    return f"{value:.3g} {unit}".rstrip()


def file_size(size: float) -> str:
    """Bytes for people: 1.5 GiB, 12 MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{max(1, round(size / 2**20))} MiB"


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
    decimals = 1 if abs(value) >= 100 else metric_card(metric).decimals
    return _minus(f"{value:.{decimals}f}")


def difference(value: float | None, metric: str = "") -> str:
    """A signed difference with as many decimals as the metric deserves; a rounded 0 has no sign."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:+.{metric_card(metric).difference_decimals}f}"
    return _minus(text) if float(text) else text[1:]


def loss(value: float | None, metric: str = "") -> str:
    """A loss: a difference without a plus sign; negative for a gain."""
    return difference(value, metric).removeprefix("+")


def size(value: float | None, metric: str = "") -> str:
    """The size of a difference, without a sign."""
    return loss(None if value is None else abs(value), metric)


def signed(value: float | None, metric: str = "") -> str:
    """A difference in plain ASCII, for sentences; "?" for None."""
    return difference(value, metric).replace("−", "-").replace("–", "?")


def interval_text(value: float | None, low: float | None, high: float | None, metric: str = "") -> str:
    """ "+0.031 [+0.010, +0.052]" in plain ASCII, for sentences; an end that is not 0 is not rounded to it."""
    if low is None or high is None:
        return f"{signed(value, metric)} without interval"
    ends = [signed(end, metric) for end in (low, high)]
    exact = [f"{end:+.1g}" if end and not float(text) else text for end, text in zip((low, high), ends, strict=True)]
    return f"{signed(value, metric)} [{', '.join(exact)}]"


def between(low: float | None, high: float | None, metric: str = "") -> str:
    """ "[-0.004, +0.012]", the ends of the interval of a difference; empty where there is none."""
    return "" if low is None or high is None else f"[{difference(low, metric)}, {difference(high, metric)}]"


class Rated(Protocol):
    """A row, of one checkpoint or of a comparison."""

    @property
    def metric(self) -> str: ...

    @property
    def null(self) -> float | None: ...


def own_rate(row: Rated) -> str:
    """ ", references' own rate 0.012" for an off-target rate: what the same rule finds in the reference translations;
    else empty."""
    return f", references' own rate {row.null:.3f}" if row.metric == "off_target_rate" and row.null is not None else ""


AMOUNTS = {"seconds": "time", "tokens": "tokens", "flops": "FLOPs", "peak_memory_bytes": "peak memory"}


def amount(name: str, value: float) -> str:
    """One amount that training took, in its unit: "7.5 min"."""
    if name == "seconds":
        return f"{value / 60:.1f} min" if value >= 60 else f"{value:.1f} s"
    if name == "tokens":
        return f"{value / 1e6:.2f} million tokens" if value >= 1e5 else f"{value:.0f} tokens"
    return f"{value:.2e} FLOPs" if name == "flops" else f"{value / 2**30:.2f} GiB peak memory"


def amounts(cost: Mapping[str, float]) -> str:
    """ "7.5 min, 2.00 million tokens and ..." for what `cost` has, by the names of `AMOUNTS`."""
    return join([amount(name, cost[name]) for name in AMOUNTS if name in cost])


def p_text(p_adjusted: float | None) -> str:
    """ "adj. p 0.004"."""
    if p_adjusted is None:
        return "no adj. p"
    return "adj. p < 0.001" if p_adjusted < 0.001 else f"adj. p {p_adjusted:.3f}"


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


def some_of(names: list[str]) -> str:
    """ "a, b, c and 4 more"."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def sentence_case(text: str) -> str:
    """A title as the start of a sentence: "Bits per byte"; names with capitals of their own stay as they are:
    "chrF++"."""
    return text if text != text.lower() else text[:1].upper() + text[1:]


def one_line(error: BaseException | str, limit: int = 240) -> str:
    """An error's text in one line of at most `limit` characters, without colours."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)) or type(error).__name__
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."

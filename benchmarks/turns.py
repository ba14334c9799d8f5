"""Times contenders in turns in one process, so that whatever else the machine does meets all of them alike; the
benchmarks beside it use it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np


def in_turns(contenders: dict[str, Callable[[], object]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds [repeats, 2], wall and CPU (of all threads), of each contender; the order turns round every time, a first
    round warms up."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        for name in list(contenders) if repeat % 2 else reversed(contenders):
            wall, cpu = time.perf_counter(), time.process_time()
            contenders[name]()
            times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
            print(f"turn {repeat}: {name} {times[name][-1][0]:.4f} s", file=sys.stderr, flush=True)
    return {name: np.array(taken[1:]) for name, taken in times.items()}


def show_times(times: dict[str, np.ndarray]) -> None:
    for name, taken in times.items():
        (wall, cpu), low, high = np.median(taken, axis=0), taken[:, 0].min(), taken[:, 0].max()
        print(
            f"{name:22} wall {wall:9.4f} s [{low:.4f}, {high:.4f}]   CPU {cpu:9.4f} s   {len(taken)} repeats",
            flush=True,
        )


def show_ratio(times: dict[str, np.ndarray], slow: str, fast: str, scale: float = 1) -> None:
    """Median and range over repeats of `slow` / `fast`, each of one turn; `scale` where `slow` did only part of the
    work of `fast`."""
    ratios = scale * times[slow] / times[fast]
    (wall, cpu), low, high = np.median(ratios, axis=0), ratios[:, 0].min(), ratios[:, 0].max()
    print(f"{slow} / {fast}: wall {wall:.4g} [{low:.4g}, {high:.4g}], CPU {cpu:.4g}", flush=True)

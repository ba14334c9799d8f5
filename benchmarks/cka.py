"""Debiased CKA of all pairs of languages, with time and memory: `PYTHONPATH=. python benchmarks/cka.py`.

First 204 languages x 19 layers x 1012 lines x 640 dimensions, ours alone: time in `cka.debiased_cka_matrix`, and the
peak resident memory of the whole process, which makes the vectors of one layer at a time. Then a race over 51
languages, a layer a turn:

ours          `cka.debiased_cka_matrix`: each Gram matrix formed, U-centred and packed once, all pairs as one product
pairwise      the formula of Song et al. 2012 in torch, called for each pair; sums of elementwise products, and no
              ones-vector algebra
torch-cka     the same as the package torch-cka writes it: trace(K @ L) and products with vectors of ones

The last two do a sample of pairs in every turn; their time for all pairs of a layer is that times (pairs / sample).
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable

import numpy as np
import torch
from turns import in_turns, show_ratio, show_times

from alignx_eval.measures.cka import debiased_cka_matrix

LAYERS, LINES, WIDTH = 19, 1012, 640
SAMPLE = 8


def fill(vectors: np.ndarray, generator: np.random.Generator) -> None:
    """Random vectors [languages, lines, width] in place: noise of a size per language, and content that languages
    share."""
    generator.standard_normal(out=vectors, dtype=np.float32)
    content = generator.standard_normal((LINES, WIDTH), dtype=np.float32)
    for language, noise in zip(vectors, np.linspace(0.5, 4, len(vectors), dtype=np.float32), strict=True):
        language *= noise
        language += content + 3


def pairwise_hsic(k: torch.Tensor, l: torch.Tensor) -> torch.Tensor:  # noqa: E741 (the letters of the paper)
    n = len(k)
    product, rows_k, rows_l = (k * l).sum(), k.sum(1), l.sum(1)
    return (product + rows_k.sum() * rows_l.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows_k @ rows_l) / (n * (n - 3))


def torch_cka_hsic(k: torch.Tensor, l: torch.Tensor) -> torch.Tensor:  # noqa: E741
    n = len(k)
    ones = torch.ones(n, 1)
    result = (
        torch.trace(k @ l)
        + (ones.T @ k @ ones @ ones.T @ l @ ones) / ((n - 1) * (n - 2))
        - 2 / (n - 2) * (ones.T @ k @ l @ ones)
    )
    return (result / (n * (n - 3))).squeeze()


def pairwise_cka(x: torch.Tensor, y: torch.Tensor, hsic: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> float:
    """Debiased CKA of x and y, both [lines, width]."""
    x, y = x - x.mean(0), y - y.mean(0)  # the formula does not need it, float32 does
    k, l = x @ x.T, y @ y.T  # noqa: E741
    k.fill_diagonal_(0)
    l.fill_diagonal_(0)
    return float(hsic(k, l)) / math.sqrt(float(hsic(k, k)) * float(hsic(l, l)))


def all_languages(generator: np.random.Generator) -> None:
    vectors = np.empty((204, LINES, WIDTH), dtype=np.float32)
    seconds = []
    for _ in range(LAYERS):
        fill(vectors, generator)
        started = time.perf_counter()
        assert np.isfinite(debiased_cka_matrix(vectors)).all()
        seconds.append(time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(
        f"204 languages: {LAYERS} layers {sum(seconds):.1f} s, a layer {np.median(seconds):.2f} s "
        f"[{min(seconds):.2f}, {max(seconds):.2f}], peak resident {peak:.2f} GB",
        flush=True,
    )


def main() -> None:
    generator = np.random.default_rng(0)
    all_languages(generator)
    vectors = np.empty((51, LINES, WIDTH), dtype=np.float32)
    fill(vectors, generator)
    pairs = np.array(np.triu_indices(len(vectors), 1)).T
    sample = generator.permutation(pairs)[:SAMPLE]
    tensors = torch.from_numpy(vectors)

    def pairwise(hsic: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> list[float]:
        return [pairwise_cka(tensors[a], tensors[b], hsic) for a, b in sample]

    matrix = debiased_cka_matrix(vectors)
    exact = [pairwise_cka(tensors[a].double(), tensors[b].double(), pairwise_hsic) for a, b in sample]
    for name, values in (
        ("ours", matrix[sample[:, 0], sample[:, 1]]),
        ("pairwise in float32", np.array(pairwise(pairwise_hsic))),
    ):
        print(
            f"{name}: largest difference from the formula in float64 over {SAMPLE} pairs "
            f"{np.abs(values - exact).max():.1e}"
        )
    contenders: dict[str, Callable[[], object]] = {
        "ours": lambda: debiased_cka_matrix(vectors),
        "pairwise": lambda: pairwise(pairwise_hsic),
        "torch-cka": lambda: pairwise(torch_cka_hsic),
    }
    times = in_turns(contenders, LAYERS)
    show_times(times)
    print(f"ours, {LAYERS} layers: {times['ours'][:, 0].sum():.1f} s")
    for name in ("pairwise", "torch-cka"):
        show_ratio(times, name, "ours", scale=len(pairs) / SAMPLE)


if __name__ == "__main__":
    main()

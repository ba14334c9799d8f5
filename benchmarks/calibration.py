"""How often tests err and intervals miss, where the truth is known: `python benchmarks/calibration.py --jobs 2`.

Each cell draws its data anew `--nulls` times from a model whose true value is known, with a seed of its own, and calls
the functions that `compare` and `gate` call. The size of a test (share of true null hypotheses rejected at 5 %) must
not be significantly above 5 %, the coverage of an interval not significantly below 95 %: one-sided binomial tests, Holm
over all cells. Verdicts: ok, conservative (significantly on the safe side) or FAIL. Writes a table to stdout and, with
--out, all cells as JSON; exits 1 where a cell fails.

Clustered data: the sizes of the clusters are drawn from those of the bundled `interface` test split for 50 and 200
lines and from the articles of FLORES devtest for 1012; the correlation within a cluster is 0.3 on the scale of the
latent normal. Randomization tests use 199 draws: their size does not depend on the number of draws as long as 0.05 *
(draws + 1) is an integer.

Cells named `limit:` lie beyond the supported domain. They show how the methods fail there; they are no part of the
family and fail nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: one process is one core

import numpy as np
from scipy import special, stats

from alignx_eval.comparison.paired_items import PairedItems
from alignx_eval.files import atomic_write
from alignx_eval.measures import cka, retrieval
from alignx_eval.results import Items, Kind
from alignx_eval.statistics.clustered import Estimate, clustered_mean, clustered_ratio, one_sided_p, t_test
from alignx_eval.statistics.corpus_metrics import CHRF_ORDERS, bleu_from_statistics, chrf_from_statistics
from alignx_eval.statistics.jackknife import jackknife, leave_one_out
from alignx_eval.statistics.multiplicity import holm
from alignx_eval.statistics.pairing import cluster_codes, cluster_sums
from alignx_eval.statistics.signflip import mcnemar_exact, sign_flip_test, swap_test
from alignx_eval.suites.translation import JACKKNIFE_GROUPS

ALPHA = 0.05
DRAWS = 199
SIZES_OF_TEST = (50, 200, 1012)
CORRELATION = 0.3
BLOCK = 100  # rows that share one matrix of random signs; the blocks are independent
# How many clusters have 1, 2, ... lines.
INTERFACE_TEST = {1: 170, 2: 51, 3: 18, 4: 9, 5: 5, 6: 2, 7: 2, 9: 2, 10: 1, 11: 1}
FLORES_DEVTEST = {1: 1, 2: 49, 3: 85, 4: 75, 5: 68, 6: 3}


@dataclass(frozen=True, slots=True)
class Sample:
    """How many lines, and the cluster of each (empty: each its own)."""

    n: int
    clusters: tuple[str, ...]

    @property
    def codes(self) -> np.ndarray:
        return cluster_codes(self.clusters, self.n)[0]

    @property
    def count(self) -> int:
        return cluster_codes(self.clusters, self.n)[1]

    def sums(self, values: np.ndarray) -> np.ndarray:
        return cluster_sums(values, self.codes, self.count)

    def normal(self, generator: np.random.Generator, *shape: int) -> np.ndarray:
        """Standard normal [n, *shape], with `CORRELATION` within clusters."""
        own = generator.standard_normal((self.n, *shape))
        if not self.clusters:
            return own
        common = generator.standard_normal((self.count, *shape))
        return np.sqrt(CORRELATION) * common[self.codes] + np.sqrt(1 - CORRELATION) * own

    def pair(self, generator: np.random.Generator, shared: float = 0.7) -> tuple[np.ndarray, np.ndarray]:
        """Two standard normal [n] that correlate by `shared`."""
        common = self.normal(generator)
        own = self.normal(generator), self.normal(generator)
        first, second = (np.sqrt(shared) * common + np.sqrt(1 - shared) * each for each in own)
        return first, second


def sample(n: int, clustered: bool, table: dict[int, int] | None = None) -> Sample:
    """A sample of n lines; clustered: with sizes drawn from `table`, the last one cut to fit."""
    if not clustered:
        return Sample(n, ())
    table = table or (FLORES_DEVTEST if n == 1012 else INTERFACE_TEST)
    generator = np.random.default_rng(n)
    sizes = generator.choice(list(table), size=n, p=np.array(list(table.values())) / sum(table.values()))
    return Sample(n, tuple(f"document {code}" for code in np.repeat(np.arange(n), sizes)[:n]))


# What a simulation tells about each null: (name of the quantity, "size" or "coverage", whether it was a rejection, or a
# hit).
Outcome = tuple[str, str, bool]


def interval(name: str, estimate: Estimate, truth: float) -> list[Outcome]:
    assert estimate.ci_low is not None and estimate.ci_high is not None
    return [(f"interval of {name}", "coverage", estimate.ci_low <= truth <= estimate.ci_high)]


def difference(name: str, estimate: Estimate, truth: float) -> list[Outcome]:
    """Coverage, and the gate's two questions at their boundary: a loss above the tolerance; a loss below the margin.

    The loss is -difference; the true difference is minus the tolerance, so both null hypotheses hold, and only just.
    """
    assert estimate.se is not None and estimate.degrees_of_freedom is not None
    above = one_sided_p(-estimate.value, -truth, estimate.se, estimate.degrees_of_freedom, -estimate.skewness)
    below = one_sided_p(estimate.value, truth, estimate.se, estimate.degrees_of_freedom, estimate.skewness)
    return [
        *interval(name, estimate, truth),
        (f"gate, loss above tolerance: {name}", "size", above < ALPHA),
        (f"gate, loss below margin: {name}", "size", below < ALPHA),
    ]


def paired(kind: Kind, base: np.ndarray, candidate: np.ndarray, drawn: Sample) -> PairedItems:
    return PairedItems(Items(kind, base), Items(kind, candidate), drawn.clusters)


# Means


def gamma(normal: np.ndarray, shape: float) -> np.ndarray:
    """Standard normal -> gamma of a shape with mean 0 and variance 1; its skewness is 2 / sqrt(shape)."""
    return (special.gammaincinv(shape, special.ndtr(normal)) - shape) / np.sqrt(shape)


def normal_differences(generator: np.random.Generator, drawn: Sample, nulls: int) -> Iterator[list[Outcome]]:
    for _ in range(nulls):
        base, candidate = drawn.pair(generator)
        yield difference("mean difference, normal", paired("mean", base, candidate - 0.1, drawn).difference(), -0.1)


def skewed_differences(
    generator: np.random.Generator,
    drawn: Sample,
    nulls: int,
    *,
    shape: float = 4.0,
    name: str = "mean difference, skewness 1",
) -> Iterator[list[Outcome]]:
    for index in range(nulls):
        base = drawn.normal(generator)
        change = gamma(drawn.normal(generator), shape) * (1 if index % 2 else -1)  # either tail is the long one
        yield difference(name, paired("mean", base, base + change - 0.1, drawn).difference(), -0.1)


def outcomes(
    generator: np.random.Generator, drawn: Sample, nulls: int, *, name: str, base_rate: float, candidate_rate: float
) -> Iterator[list[Outcome]]:
    thresholds = special.ndtri(base_rate), special.ndtri(candidate_rate)
    for _ in range(nulls):
        base, candidate = ((z < threshold).astype(float) for z, threshold in zip(drawn.pair(generator), thresholds))
        yield difference(name, paired("mean", base, candidate, drawn).difference(), candidate_rate - base_rate)


def single_means(generator: np.random.Generator, drawn: Sample, nulls: int) -> Iterator[list[Outcome]]:
    for _ in range(nulls):
        z = drawn.normal(generator)
        yield [
            *interval("a mean, skewness 2", clustered_mean(gamma(z, 1.0), drawn.clusters), 0.0),
            *interval("a rate of 0.6", clustered_mean((z < special.ndtri(0.6)).astype(float), drawn.clusters), 0.6),
            *interval("a rate of 0.97", clustered_mean((z < special.ndtri(0.97)).astype(float), drawn.clusters), 0.97),
        ]


# Ratios


def bits_per_byte(
    generator: np.random.Generator, drawn: Sample, nulls: int, *, change: float, name: str
) -> Iterator[list[Outcome]]:
    for _ in range(nulls):
        sizes = np.round(np.exp(4 + 0.5 * generator.standard_normal(drawn.n)))
        base, candidate = (1.5 + 0.4 * gamma(z, 4.0) for z in drawn.pair(generator))
        sides = [np.column_stack([rate * sizes, sizes]) for rate in (base, candidate + change)]
        found = difference(name, paired("ratio", sides[0], sides[1], drawn).difference(), change)
        if change:
            found += interval("bits per byte", clustered_ratio(sides[0], drawn.clusters), 1.5)
        yield found


def off_target(generator: np.random.Generator, drawn: Sample, nulls: int) -> Iterator[list[Outcome]]:
    for _ in range(nulls):
        sides = []
        for z, rate in zip(drawn.pair(generator), (0.03, 0.05)):
            judged = generator.random(drawn.n) < 0.95
            sides.append(np.column_stack([(z < special.ndtri(rate)) & judged, judged]).astype(np.int64))
        estimate = paired("ratio", sides[0], sides[1], drawn).difference()
        yield [
            *difference("off-target rate difference", estimate, 0.02),
            *interval("an off-target rate of 0.03", clustered_ratio(sides[0], drawn.clusters), 0.03),
        ]


# Corpus metrics: n-grams of a line match with the probability quality ** order, the quality of a line is normal on the
# probit scale.

QUALITY_SPREAD = 0.3


def quality_moments(level: float, orders: int) -> np.ndarray:
    """E[quality ** order] for order 1 .. orders, quality = Phi(level + spread * normal)."""
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    quality = special.ndtr(level + QUALITY_SPREAD * points)
    return np.array([(weights * quality**order).sum() for order in range(1, orders + 1)]) / weights.sum()


def bleu_statistics(generator: np.random.Generator, z: np.ndarray, level: float, length: np.ndarray) -> np.ndarray:
    quality = special.ndtr(level + QUALITY_SPREAD * z)
    total = length[:, None] - np.arange(4)
    correct = generator.binomial(total, quality[:, None] ** np.arange(1, 5))
    return np.column_stack([length, length, correct, total])


def true_bleu(level: float, mean_length: float) -> float:
    total = mean_length - np.arange(4)
    return float(
        bleu_from_statistics(np.concatenate([[mean_length, mean_length], total * quality_moments(level, 4), total]))
    )


def lengths(generator: np.random.Generator, n: int) -> np.ndarray:
    return generator.integers(8, 41, n)  # mean 24


def bleu_differences(
    generator: np.random.Generator, drawn: Sample, nulls: int, *, levels: tuple[float, float], name: str
) -> Iterator[list[Outcome]]:
    base_bleu, candidate_bleu = (true_bleu(level, 24.0) for level in levels)
    groups = (
        drawn.codes % JACKKNIFE_GROUPS,
        min(drawn.count, JACKKNIFE_GROUPS),
    )  # as the suite deals them out for a single score
    for _ in range(nulls):
        length = lengths(generator, drawn.n)
        base, candidate = (
            bleu_statistics(generator, z, level, length) for z, level in zip(drawn.pair(generator), levels)
        )
        found = difference(name, paired("bleu", base, candidate, drawn).difference(), candidate_bleu - base_bleu)
        if base_bleu != candidate_bleu:
            single = jackknife(
                *leave_one_out(cluster_sums(base, *groups), bleu_from_statistics), sizes=np.bincount(groups[0])
            )
            found += interval(f"BLEU, about {base_bleu:.0f}", single, base_bleu)
        yield found


def chrf_statistics(generator: np.random.Generator, z: np.ndarray, level: float, length: np.ndarray) -> np.ndarray:
    quality = special.ndtr(level + QUALITY_SPREAD * z)[:, None]
    order = np.concatenate([np.arange(1, 7), np.arange(1, 3)])
    total = np.maximum(0, np.column_stack([5 * length] * 6 + [length] * 2) - order + 1)
    correct = generator.binomial(total, quality ** np.concatenate([order[:6] / 2, order[6:]]))
    return np.stack([total, total, correct], axis=2).reshape(len(z), 3 * CHRF_ORDERS)


def swaps(generator: np.random.Generator, drawn: Sample, nulls: int) -> Iterator[list[Outcome]]:
    """Swap tests of exchangeable systems: BLEU, chrF++, and two ratios whose denominators differ."""
    for _ in range(nulls):
        length = lengths(generator, drawn.n)
        pair = drawn.pair(generator)
        judged = [generator.random(drawn.n) < 0.95 for _ in pair]
        sides: dict[str, tuple[Callable, list[np.ndarray]]] = {
            "BLEU": (bleu_from_statistics, [bleu_statistics(generator, z, 0.5, length) for z in pair]),
            "chrF++": (chrf_from_statistics, [chrf_statistics(generator, z, 0.5, length) for z in pair]),
            "off-target rate": (
                _ratio,
                [np.column_stack([(z < -1.6) & flags, flags]).astype(float) for z, flags in zip(pair, judged)],
            ),
        }
        yield [
            (
                f"swap test of {name}",
                "size",
                swap_test(*map(drawn.sums, both), statistic, generator=generator, draws=DRAWS) <= ALPHA,
            )
            for name, (statistic, both) in sides.items()
        ]


def _ratio(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / np.maximum(sums[..., 1], 1e-9)


# Sign flips


def sign_flips(generator: np.random.Generator, drawn: Sample, nulls: int) -> Iterator[list[Outcome]]:
    def exchangeable(transform: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        base, candidate = (transform(z) for z in drawn.pair(generator))
        return candidate - base

    models: dict[str, Callable[[], np.ndarray]] = {
        "normal values": lambda: exchangeable(lambda z: z),
        "values of skewness 2": lambda: exchangeable(lambda z: gamma(z, 1.0)),
        "outcomes, rate 0.6": lambda: exchangeable(lambda z: (z < special.ndtri(0.6)).astype(float)),
        "outcomes, rate 0.97": lambda: exchangeable(lambda z: (z < special.ndtri(0.97)).astype(float)),
        "differences of skewness 1 and mean 0": lambda: gamma(drawn.normal(generator), 4.0),
    }
    for start in range(0, nulls, BLOCK):
        rows = min(BLOCK, nulls - start)
        rejected = {}
        for name, draw in models.items():
            sums = np.stack([drawn.sums(draw()) for _ in range(rows)], axis=1)
            rejected[name] = np.asarray(sign_flip_test(sums, generator=generator, draws=DRAWS)) <= ALPHA
        for row in range(rows):
            yield [(f"sign flips, {name}", "size", bool(flags[row])) for name, flags in rejected.items()]


def mcnemar(generator: np.random.Generator, drawn: Sample, nulls: int) -> Iterator[list[Outcome]]:
    for _ in range(nulls):
        found: list[Outcome] = []
        for rate in (0.6, 0.97):
            base, candidate = (z < special.ndtri(rate) for z in drawn.pair(generator))
            p = mcnemar_exact(int((candidate & ~base).sum()), int((base & ~candidate).sum()))
            found.append((f"exact McNemar test, rate {rate}", "size", p <= ALPHA))
        yield found


# Representations

WIDTH = 16


def cka_dependent(generator: np.random.Generator, drawn: Sample, nulls: int) -> Iterator[list[Outcome]]:
    """A pivot and two sides that are the pivot plus noise of the same size: the debiased CKA of each is 0.5, its
    difference 0.

    With clusters, pairs of lines of one document are part of what CKA looks at, and shift it: there the truth is its
    expected value for such documents, taken from the simulation itself (its error is 1 % of a standard error).
    """
    codes = drawn.codes
    singles: list[Estimate] = []
    for _ in range(nulls):
        vectors = drawn.normal(generator, 3, WIDTH).astype(np.float32)
        pivot = vectors[:, 0]
        grams = [cka.centred_gram(side, codes) for side in (pivot, pivot + vectors[:, 1], pivot + vectors[:, 2])]
        both = [cka.debiased_cka_leave_out(grams[0], gram) for gram in grams[1:]]
        singles.append(jackknife(both[0][0], both[0][1], n=drawn.n))
        sides = [Items("jackknife", values, point) for point, values in both]
        change = PairedItems(sides[0], sides[1]).difference()
        assert change.se is not None and change.degrees_of_freedom is not None
        p = t_test(change.value, change.se, change.degrees_of_freedom, change.skewness)
        yield [
            *difference("debiased CKA difference", change, 0.0),
            ("jackknife t test of a debiased CKA difference", "size", p < ALPHA),
        ]
    truth = float(np.mean([single.value for single in singles])) if drawn.clusters else 0.5
    for single in singles:
        yield interval("debiased CKA", single, truth)


def cka_independent(generator: np.random.Generator, drawn: Sample, nulls: int) -> Iterator[list[Outcome]]:
    for _ in range(nulls):
        x, y = drawn.normal(generator, WIDTH), drawn.normal(generator, WIDTH)
        p = cka.permutation_p_value(x, y, draws=19, generator=generator)
        yield [("permutation test of debiased CKA", "size", p <= ALPHA)]


def retrieval_independent(generator: np.random.Generator, drawn: Sample, nulls: int) -> Iterator[list[Outcome]]:
    for _ in range(nulls):
        x, y = (drawn.normal(generator, WIDTH).astype(np.float32) for _ in range(2))
        hits = retrieval.hits(x @ y.T).forward
        yield interval(
            "precision@1 of unrelated vectors",
            clustered_mean(hits, drawn.clusters),
            retrieval.chance_precision(drawn.n),
        )


@dataclass(frozen=True, slots=True)
class Simulation:
    """A model of data and what is asked of it.

    clustered: without and with clusters; cluster_sizes: other sizes than the usual; share: of the nulls, where one
    costs a quarter of a second; limit: beyond the supported domain.
    """

    name: str
    run: Callable[[np.random.Generator, Sample, int], Iterator[list[Outcome]]]
    sizes: tuple[int, ...] = SIZES_OF_TEST
    clustered: tuple[bool, ...] = (False, True)
    cluster_sizes: dict[int, int] | None = None
    share: float = 1.0
    limit: bool = False


SIMULATIONS = (
    Simulation("normal", normal_differences),
    Simulation("skewed", skewed_differences),
    Simulation(
        "outcomes", partial(outcomes, name="difference of rates 0.60 and 0.58", base_rate=0.6, candidate_rate=0.58)
    ),
    Simulation(
        "outcomes 0", partial(outcomes, name="difference of rates 0.60 and 0.60", base_rate=0.6, candidate_rate=0.6)
    ),
    Simulation(
        "rare outcomes",
        partial(outcomes, name="difference of rates 0.98 and 0.96", base_rate=0.98, candidate_rate=0.96),
    ),
    Simulation("single", single_means),
    Simulation("bits per byte", partial(bits_per_byte, change=0.02, name="bits per byte difference")),
    Simulation("bits per byte 0", partial(bits_per_byte, change=0.0, name="bits per byte difference of 0")),
    Simulation("off-target", off_target),
    Simulation("BLEU", partial(bleu_differences, levels=(0.5, 0.45), name="BLEU difference")),
    Simulation("BLEU 0", partial(bleu_differences, levels=(0.5, 0.5), name="BLEU difference of 0")),
    Simulation("swaps", swaps),
    Simulation("sign flips", sign_flips),
    Simulation("McNemar", mcnemar, clustered=(False,)),
    Simulation("retrieval", retrieval_independent),
    Simulation("CKA", cka_dependent),
    Simulation("CKA at independence", cka_independent, sizes=(50, 200), clustered=(False,)),
    Simulation("CKA at independence, large", cka_independent, sizes=(1012,), clustered=(False,), share=0.1),
    Simulation("limit: skewed", partial(skewed_differences, shape=1.0, name="mean difference, skewness 2"), limit=True),
    Simulation(
        "limit: few clusters",
        partial(skewed_differences, name="mean difference, skewness 1, few clusters"),
        sizes=(50,),
        clustered=(True,),
        cluster_sizes=FLORES_DEVTEST,
        limit=True,
    ),
    Simulation(
        "limit: BLEU", partial(bleu_differences, levels=(-1.0, -1.05), name="BLEU difference at 2 BLEU"), limit=True
    ),
    Simulation("limit: CKA", cka_independent, sizes=(50, 200), clustered=(True,), limit=True),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One number: of `nulls` true null hypotheses (or known values) a share `rate` was rejected (or covered), with its
    exact 95 % interval.

    p is that of "the size is at most 5 %" or "the coverage is at least 95 %", p_adjusted the same after Holm over all
    cells.
    """

    method: str
    what: str
    n: int
    clusters: int
    nulls: int
    rate: float
    low: float
    high: float
    p: float
    limit: bool
    p_adjusted: float | None = None
    verdict: str = "limit"


def run_simulation(simulation: Simulation, n: int, clustered: bool, nulls: int) -> tuple[list[Cell], float]:
    """All cells of one simulation at one size, and the seconds they took."""
    started = time.perf_counter()
    drawn = sample(n, clustered, simulation.cluster_sizes)
    generator = np.random.default_rng([zlib.crc32(simulation.name.encode()), n, int(clustered)])
    counts: dict[tuple[str, str], list[int]] = {}
    for found in simulation.run(generator, drawn, max(1, round(simulation.share * nulls))):
        for method, what, flag in found:
            count = counts.setdefault((method, what), [0, 0])
            count[0] += bool(flag)
            count[1] += 1
    cells = []
    for (method, what), (flagged, total) in counts.items():
        test = stats.binomtest(
            flagged, total, ALPHA if what == "size" else 1 - ALPHA, "greater" if what == "size" else "less"
        )
        bounds = stats.binomtest(flagged, total).proportion_ci(0.95)
        name = f"limit: {method}" if simulation.limit else method
        shown = (flagged / total, float(bounds.low), float(bounds.high))
        cells.append(Cell(name, what, n, drawn.count, total, *shown, float(test.pvalue), simulation.limit))
    return cells, time.perf_counter() - started


def judge(cells: list[Cell]) -> list[Cell]:
    """Adjusted p and verdict of all cells that are in the family."""
    family = [cell for cell in cells if not cell.limit]
    adjusted = holm([cell.p for cell in family])
    safe = holm([_safe_p(cell) for cell in family])
    judged = []
    for cell, p, safe_p in zip(family, adjusted, safe, strict=True):
        verdict = "FAIL" if p < ALPHA else "conservative" if safe_p < ALPHA else "ok"
        judged.append(replace(cell, p_adjusted=float(p), verdict=verdict))
    return judged + [cell for cell in cells if cell.limit]


def _safe_p(cell: Cell) -> float:
    """p of "the size is at least 5 %", or "the coverage is at most 95 %"."""
    flagged = round(cell.rate * cell.nulls)
    side = "less" if cell.what == "size" else "greater"
    return float(stats.binomtest(flagged, cell.nulls, ALPHA if cell.what == "size" else 1 - ALPHA, side).pvalue)


def table(cells: list[Cell]) -> str:
    """Methods in rows, sample sizes in columns (`50/30`: 50 lines in 30 clusters); percent, with a mark: ! fails, +
    conservative."""
    columns = list(
        dict.fromkeys((cell.n, cell.clusters) for cell in sorted(cells, key=lambda cell: (cell.n, -cell.clusters)))
    )
    width = max(len(cell.method) for cell in cells)
    heads = [str(n) if n == clusters else f"{n}/{clusters}" for n, clusters in columns]
    lines = [f"{'percent':{width}}  {'':8}" + "".join(f"{head:>10}" for head in heads)]
    for method, what in dict.fromkeys((cell.method, cell.what) for cell in cells):
        entries = {(cell.n, cell.clusters): cell for cell in cells if (cell.method, cell.what) == (method, what)}
        marks = {"FAIL": "!", "conservative": "+"}
        texts = [
            f"{100 * entries[column].rate:.1f}{marks.get(entries[column].verdict, ' ')}" if column in entries else " "
            for column in columns
        ]
        lines.append(f"{method:{width}}  {what:8}" + "".join(f"{text:>10}" for text in texts))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nulls", type=int, default=10_000, help="data sets per cell (default: %(default)s)")
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes (default: %(default)s); results do not depend on it"
    )
    parser.add_argument("--only", help="run the simulations whose name contains this")
    parser.add_argument("--out", type=Path, help="JSON file for all cells")
    arguments = parser.parse_args()
    if arguments.nulls < 1 or arguments.jobs < 1:
        parser.error("--nulls and --jobs must be at least 1")
    work = [
        (simulation, n, clustered)
        for simulation in SIMULATIONS
        for n in simulation.sizes
        for clustered in simulation.clustered
        if arguments.only is None or arguments.only in simulation.name
    ]
    if not work:
        parser.error(
            f"no simulation is called {arguments.only!r}; there are: "
            f"{', '.join(simulation.name for simulation in SIMULATIONS)}"
        )
    cells: list[Cell] = []
    with ProcessPoolExecutor(arguments.jobs) as pool:
        futures = [pool.submit(run_simulation, *each, arguments.nulls) for each in work]
        for (simulation, n, clustered), future in zip(work, futures):
            found, seconds = future.result()
            print(f"{simulation.name}, n = {n}{', clustered' if clustered else ''}: {seconds:.0f} s", file=sys.stderr)
            cells += found
    cells = judge(cells)
    print(table(cells))
    failed = [cell for cell in cells if cell.verdict == "FAIL"]
    conservative = sum(cell.verdict == "conservative" for cell in cells)
    family = sum(not cell.limit for cell in cells)
    print(f"\n{family} cells, {len(failed)} fail (!), {conservative} conservative (+); Holm over the cells at 5 %")
    if arguments.out:
        document = {
            "command": f"python benchmarks/calibration.py --nulls {arguments.nulls}",
            "cells": [asdict(cell) for cell in cells],
        }
        atomic_write(arguments.out, json.dumps(document, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())

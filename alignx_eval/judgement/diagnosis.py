"""Comparison -> the known failure signatures of alignment, each a stated rule, with its evidence. Pure: no model, no
file.

    over-alignment           something was gained, and what keeps languages apart was lost with it
    insufficient-alignment   translations did not come noticeably closer at the align layer
    hidden-losers            a mean over languages improved, and a language in it got worse
    loss-in-english          English, the pivot, got worse itself
    price                    the training took more than the control's

Every rule has three answers. `found`: what it looks for is established. `not-found`: it is not, and the intervals rule
out as much as would matter (`metrics.py`, noticeable), so this is more than the absence of evidence. `cannot-tell`:
neither, or a part was not measured.

"Established" is, for a row of one language or direction and for a mean, its verdict (p adjusted within its suite); for
the language probe, which has no verdict, the 95 % intervals before and after the final norm both.
That intervals rule a loss out in every one of many rows needs no adjustment: all of them have to hold (Berger 1982).
"""

from __future__ import annotations

from collections.abc import Sequence

from alignx_eval.comparison.contrasts import contrasts_of
from alignx_eval.comparison.costs import cost_ratios, own_costs, total
from alignx_eval.comparison.rows import Comparison, own_language
from alignx_eval.judgement.evidence import (
    MORE_THAN_CONTROL,
    Case,
    Diagnosis,
    Evidence,
    Group,
    Status,
    group_sign,
    identity_sign,
    in_order,
    make_case,
    make_group,
    mean_sign,
    row_evidence,
    size_of,
    sizes_of_means,
    stage_evidence,
    task_metrics,
    two,
)
from alignx_eval.metrics import METRICS
from alignx_eval.wording import AMOUNTS, amount, amounts, count, join

CEILING = 0.95  # a reference with a higher precision@1 leaves alignment too little to gain
_N = {name: f"{card.noticeable:g}" for name, card in METRICS.items() if card.noticeable is not None}
RULES: dict[str, str] = {
    "over-alignment": (
        "Found where the mean over languages of precision@1 at the align layer, BLEU, chrF++, the off-target rate or "
        "bits per byte "
        "improved (adjusted p) and at least one of these is established: language identity falls (balanced "
        "accuracy of the language probe in the last state: intervals before and after the final norm both below 0), "
        "the off-target rate "
        "rises (in a direction or on average, adjusted p), bits per byte of a language rise (adjusted p); not found "
        "where "
        f"precision@1 gains less than {_N['precision_at_1']} (upper end of its interval) and no other mean improved, "
        "or where the "
        f"intervals of all three rule out losses above {_N['probe_balanced_accuracy']}, {_N['off_target_rate']} and "
        f"{_N['bits_per_byte']}."
    ),
    "insufficient-alignment": (
        "Found where the 95 % interval of the mean difference in precision@1 at the align layer (the middle one where "
        "none is recorded) "
        f"lies below {_N['precision_at_1']}, not found where it lies above and the mean improved (adjusted p); not "
        "judged where the reference has "
        f"{CEILING:g} or more."
    ),
    "hidden-losers": (
        "Found where the mean over languages of precision@1 at the align layer, BLEU, chrF++, the off-target rate, "
        "bits per byte or a task "
        "improved (adjusted p) "
        "and at least one language got worse in it (adjusted p); not found where no mean improved, or where the "
        "intervals of "
        f"all languages under those that did rule out a loss above {_N['precision_at_1']} in precision@1, "
        f"{_N['bleu']} in BLEU and chrF++, "
        f"{_N['off_target_rate']} in the off-target rate, {_N['bits_per_byte']} in bits per byte, {_N['acc']} in a "
        "task."
    ),
    "loss-in-english": (
        "Found where English (the pivot) got worse in its own bits per byte or tasks (adjusted p), or in the mean of "
        "BLEU, chrF++ or the "
        "off-target rate of translation into it (adjusted p); not found where bits per byte and translation were "
        "measured and all "
        f"intervals rule out a loss above {_N['bits_per_byte']} in bits per byte, {_N['bleu']} in BLEU and chrF++, "
        f"{_N['off_target_rate']} in the off-target rate, {_N['acc']} in a task."
    ),
    "price": (
        "Found where the candidate's own training stages, those that the base does not share, took more than "
        f"{MORE_THAN_CONTROL:g} times the control's time, tokens, FLOPs or peak memory, not found where all four are "
        "recorded and none "
        "did; without a control, found where any of them is recorded."
    ),
}


def diagnose(comparison: Comparison) -> list[Diagnosis]:
    """All rules on each candidate: against the control where there is one, else the base; losers and English against
    both."""
    found = []
    for candidate in comparison.candidates:
        cases = [make_case(comparison, contrast) for contrast in contrasts_of(comparison, candidate)]
        found += [_over_alignment(cases[0]), _insufficient_alignment(cases[0])]
        found += [_hidden_losers(case) for case in cases]
        found += [_loss_in_english(case) for case in cases]
        found.append(_price(cases))
    return found


# --- the rules ------------------------------------------------------------------------------------
def _over_alignment(case: Case) -> Diagnosis:
    rule, precision = "over-alignment", case.group("precision_at_1")
    gains = [group for group in case.groups if group.improved and group.metric.suite != "tasks"]
    signs = [
        identity_sign(case),
        group_sign(case.group("off_target_rate"), with_mean=True),
        group_sign(case.group("bits_per_byte")),
    ]
    lost, others = [sign for sign in signs if sign.lost], [sign for sign in signs if not sign.lost]
    shown = (gains or [group for group in [precision] if group.mean is not None])[:3]
    evidence = [group.mean_evidence() for group in shown] + in_order(lost) + in_order(others)
    sizes = sizes_of_means(shown) + [size for sign in signs for size in sign.sizes]
    gain = "; ".join(group.mean_text() for group in shown) or precision.missing()
    losses, rest = ("; ".join(sign.text for sign in part) for part in (lost, others))
    beside = f". Beside that: {rest}" if rest else ""
    if gains and lost:
        return case.diagnosis(
            rule, "found", f"signs of over-alignment. Improved: {gain}. Lost: {losses}{beside}", evidence, sizes
        )
    if not gains and _little_gain(precision):
        text = f"no over-alignment, as there is little alignment: {gain}, and no other mean improved"
        return case.diagnosis(
            rule, "not-found", text + (f". Lost all the same: {losses}" if lost else ""), evidence, sizes
        )
    if all(sign.ruled_out for sign in signs):
        return case.diagnosis(rule, "not-found", f"no sign of over-alignment: {rest}", evidence, sizes)
    if lost:
        text = (
            f"over-alignment cannot be told from a plain loss, as no gain is established ({gain}). Lost: "
            f"{losses}{beside}"
        )
    else:
        text = f"whether there is over-alignment cannot be told: {rest}"
    return case.diagnosis(rule, "cannot-tell", text, evidence, sizes)


def _little_gain(precision: Group) -> bool:
    """Whether the interval of the mean rules out a noticeable gain, and a gain was possible."""
    if precision.mean is None or precision.mean.base >= CEILING:
        return False
    return -precision.metric.at_least(precision.mean.estimate) < precision.metric.noticeable


def _insufficient_alignment(case: Case) -> Diagnosis:
    rule, group = "insufficient-alignment", case.group("precision_at_1")
    unknown = "whether alignment is insufficient cannot be told"
    if group.mean is None:
        return case.diagnosis(rule, "cannot-tell", f"{unknown}: {group.missing()}", [])
    estimate, metric = group.mean.estimate, group.metric
    layers = [
        row for row in case.contrast.rows if row.suite == "layers" and row.ci_low is not None and row.language is None
    ]
    middle = "precision@1, mean of the middle half of the layers above layer 0"
    evidence = [group.mean_evidence()]
    evidence += [
        row_evidence(row, "debiased CKA, mean")
        for row in layers
        if row.metric == "cka_debiased" and row.layer == case.layer
    ]
    evidence += [row_evidence(row, middle) for row in layers if row.metric == "precision_at_1_middle_gain"]
    evidence += [
        row_evidence(row, METRICS["precision_at_1"].title)
        for row in sorted(group.judged, key=lambda row: row.difference or 0.0)
    ]
    gain, limit = -metric.at_most(estimate), f"the {metric.noticeable:g} that counts as a gain"
    status: Status = "cannot-tell"
    if group.mean.base >= CEILING:
        text = (
            f"{unknown}, as {case.contrast.other} is near the ceiling with {group.mean.base:.3f}: {group.mean_text()}"
        )
    elif _little_gain(group):
        status, text = (
            "found",
            f"insufficient alignment: {group.mean_text()}; even the upper end of the interval is below {limit}",
        )
    elif group.improved and gain > metric.noticeable:
        status, text = (
            "not-found",
            f"no insufficient alignment: {group.mean_text()}; even the lower end of the interval is above {limit}",
        )
    elif group.improved:
        text = (
            f"{unknown}: {group.mean_text()}; a gain is established, but the interval does not tell whether it "
            f"reaches {limit}"
        )
    else:
        text = f"{unknown}: {group.mean_text()}; no evidence of a gain, but the interval leaves room for {limit}"
    return case.diagnosis(rule, status, text, evidence, [size_of(estimate)])


def _hidden_losers(case: Case) -> Diagnosis:
    rule = "hidden-losers"
    measured = [group for group in case.groups if group.mean is not None]
    improved = [group for group in measured if group.improved]
    if not measured:
        return case.diagnosis(
            rule,
            "cannot-tell",
            "hidden losers cannot be told: no mean over languages was measured with enough data",
            [],
        )
    if not improved:
        worse = sum(len(group.worse) for group in measured)
        text = "no hidden losers, as no mean is established to have improved: " + "; ".join(
            group.mean_text() for group in measured
        )
        text += f". In the open, {count(worse, 'result')} of single languages got worse" if worse else ""
        return case.diagnosis(
            rule, "not-found", text, [group.mean_evidence() for group in measured], sizes_of_means(measured)
        )
    signs = {group.metric.name: group_sign(group) for group in improved}
    hiding = [group for group in improved if signs[group.metric.name].lost]
    unclear = [group for group in improved if not signs[group.metric.name].ruled_out]
    shown = hiding or unclear or improved
    texts = "; ".join(
        f"{group.mean_text()}, {'but' if hiding else 'and'} it {signs[group.metric.name].claim}" for group in shown
    )
    evidence = [group.mean_evidence() for group in shown[:3]] + in_order([signs[group.metric.name] for group in shown])
    sizes = sizes_of_means(shown) + [size for group in shown for size in signs[group.metric.name].sizes]
    if hiding:
        codes = sorted({str(own_language(row, case.comparison.pivot)) for group in hiding for row in group.worse})
        losers = f"{count(len(codes), 'language')} ({', '.join(codes[:8])}{', ...' if len(codes) > 8 else ''})"
        return case.diagnosis(rule, "found", f"{losers} lost under a mean that improved: {texts}", evidence, sizes)
    if not unclear:
        return case.diagnosis(
            rule, "not-found", f"no hidden losers under the means that improved: {texts}", evidence, sizes
        )
    text = f"no loser is established under the means that improved, but whether there is one cannot be told: {texts}"
    clear = [group.metric.title for group in improved if group not in unclear]
    text += f". Ruled out under the mean of {join(clear)}" if clear else ""
    return case.diagnosis(rule, "cannot-tell", text, evidence, sizes)


def _loss_in_english(case: Case) -> Diagnosis:
    """On the pivot, which is English unless another was chosen; its code is shown."""
    rule, pivot = "loss-in-english", case.comparison.pivot
    own = [row for row in case.contrast.rows if row.language == pivot and row.other_language is None]
    into = [row for row in case.contrast.rows if row.language is not None and row.other_language == pivot]
    tasks = [make_group(case.comparison, case.contrast, metric, own) for metric in task_metrics(own)]
    signs = [group_sign(make_group(case.comparison, case.contrast, case.group("bits_per_byte").metric, own), of=pivot)]
    signs += [
        mean_sign(
            make_group(case.comparison, case.contrast, case.group(name).metric, into), f"translation into {pivot}"
        )
        for name in ("bleu", "chrf++", "off_target_rate")
    ]
    signs += [group_sign(group, of=pivot) for group in tasks]
    lost, others = [sign for sign in signs if sign.lost], [sign for sign in signs if not sign.lost]
    evidence = in_order(lost) + in_order(others)
    sizes = [size for sign in signs for size in sign.sizes]
    losses = "; ".join(sign.text for sign in lost)
    rest = "; ".join([sign.text for sign in others] + ([] if tasks else [f"no task in {pivot} was measured"]))
    if lost:
        return case.diagnosis(
            rule, "found", f"{pivot} got worse: {losses}" + (f". Beside that: {rest}" if rest else ""), evidence, sizes
        )
    if all(sign.ruled_out for sign in signs):
        return case.diagnosis(rule, "not-found", f"no noticeable loss in {pivot}: {rest}", evidence, sizes)
    text = f"whether {pivot} lost cannot be told: {rest}"
    return case.diagnosis(rule, "cannot-tell", text, evidence, sizes)


def _price(cases: Sequence[Case]) -> Diagnosis:
    """`cases`: against the control, where there is one, then against the base."""
    rule, case = "price", cases[0]
    own_training = own_costs(case.comparison, case.contrast.candidate)
    own = total(own_training)
    evidence = [stage_evidence(cost) for cost in own_training]
    if not own:
        why = (
            "its stages record no time, tokens, FLOPs or memory"
            if own_training
            else "no training stage of its own is recorded"
        )
        return case.diagnosis(rule, "cannot-tell", f"the price cannot be told: {why}", evidence)
    took = f"its own training took {amounts(own)}"
    gains = [text for each in reversed(cases) for text in _price_of_gain(each, own)]
    sizes = sizes_of_means(each.group("precision_at_1") for each in cases) if gains else []
    gained = f". {'. '.join(gains)}" if gains else ""
    if case.contrast.kind == "candidate-base":
        missing = [title for name, title in AMOUNTS.items() if name not in own]
        text = took + (f" ({join(missing)} not recorded)" if missing else "")
        text += "; without a control, what plain training on as many tokens takes, and gains, is not known"
        return case.diagnosis(rule, "found", text + gained, evidence, sizes)
    control_training = own_costs(case.comparison, case.contrast.other)
    control = total(control_training)
    evidence += [stage_evidence(cost) for cost in control_training]
    ratios = cost_ratios(own, control)
    if not ratios:
        text = (
            f"whether it cost more than {case.contrast.other} cannot be told, as nothing is recorded for both; {took}"
        )
        return case.diagnosis(rule, "cannot-tell", text + gained, evidence, sizes)
    by_ratio = sorted(ratios, key=lambda name: -ratios[name])
    evidence = [
        Evidence(
            row=None,
            text=f"{AMOUNTS[name]}: {two(name, own[name], 'against', control[name])}, {ratios[name]:.2f} times",
        )
        for name in by_ratio
    ] + evidence
    text = join(
        [
            f"{ratios[name]:.2f} times the {AMOUNTS[name]} ({two(name, own[name], 'against', control[name])})"
            for name in by_ratio
        ]
    )
    devices = [{str(cost.device) for cost in training} for training in (own_training, control_training)]
    if "seconds" in ratios and devices[0] != devices[1]:
        text += (
            f"; the devices differ ({join(sorted(devices[0]))} and {join(sorted(devices[1]))}), so the times do not "
            "compare"
        )
    missing = [title for name, title in AMOUNTS.items() if name not in ratios]
    text += f"; not recorded for both: {join(missing)}" if missing else ""
    if any(ratio > MORE_THAN_CONTROL for ratio in ratios.values()):
        return case.diagnosis(rule, "found", f"it cost more: {text}{gained}", evidence, sizes)
    if missing:
        text = f"no higher price in what is recorded, but the rest cannot be told: {text}{gained}"
        return case.diagnosis(rule, "cannot-tell", text, evidence, sizes)
    return case.diagnosis(
        rule,
        "not-found",
        f"no higher price, nothing above {MORE_THAN_CONTROL:g} times: {text}{gained}",
        evidence,
        sizes,
    )


def _price_of_gain(case: Case, own: dict[str, float]) -> list[str]:
    """What +0.01 of precision@1 took, where the gain is established: of the whole training over the base, of the extra
    over the control.

    The interval is that of the gain; the amounts are of one run and have none.
    """
    group = case.group("precision_at_1")
    if group.mean is None or not group.improved or (group.mean.estimate.ci_low or 0) <= 0:
        return []
    spent, how = own, "took"
    if case.contrast.kind == "candidate-control":
        control = total(own_costs(case.comparison, case.contrast.other))
        ratios = cost_ratios(own, control)
        spent = {name: own[name] - control[name] for name, ratio in ratios.items() if ratio > MORE_THAN_CONTROL}
        how = "took an extra"
    estimate = group.mean.estimate
    assert estimate.ci_low is not None and estimate.ci_high is not None  # of a mean that improved
    price = {
        name: [spent[name] * 0.01 / gain for gain in (estimate.value, estimate.ci_high, estimate.ci_low)]
        for name in spent
    }
    prices = [
        f"{amount(name, price[name][0])} ({two(name, price[name][1], 'to', price[name][2])})"
        for name in ("seconds", "tokens", "flops")
        if name in price
    ]
    gain = f"Precision@1 gained {group.metric.interval(estimate)} over {case.contrast.other}"
    return [f"{gain}, so each +0.01 {how} {join(prices)}"] if prices else []

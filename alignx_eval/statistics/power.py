"""What a comparison could have seen."""

from __future__ import annotations

from scipy import special


def minimum_detectable_effect(
    se: float, degrees_of_freedom: float, *, alpha: float = 0.05, power: float = 0.8
) -> float:
    """Smallest true difference, in the metric's unit, that a two-sided test at `alpha` finds with probability `power`.

    (t_{1 - alpha/2} + t_{power}) * se, the usual approximation of the noncentral t (Bloom 1995). Assumes: an
    approximately normal estimate, one test: under a multiplicity adjustment the effect has to be larger. Fails: an
    estimated standard error of 0, for which it would claim to see anything.
    """
    return float((special.stdtrit(degrees_of_freedom, 1 - alpha / 2) + special.stdtrit(degrees_of_freedom, power)) * se)

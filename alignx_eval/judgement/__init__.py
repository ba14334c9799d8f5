"""Verdicts and words about a comparison: the gate, the series, the diagnosis, the findings."""

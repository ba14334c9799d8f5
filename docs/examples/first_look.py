# %% [markdown]
# # A first look: did alignment help, where, and at what price?
#
# Three checkpoints come with the package: a base, the same base after AlignX training, and a control that saw as many
# tokens without alignment. Everything here runs on a laptop without a network, in about a minute. Run it as a script,
# or cell by cell as a notebook.

# %%
import sys
from pathlib import Path

import alignx_eval as ax

out = Path(sys.argv[1] if len(sys.argv) > 1 else "first-look")

# %% Measure and compare. What is complete in `out` is not measured again.
comparison = ax.compare(
    "bundled:base",
    "bundled:alignx",
    control="bundled:tuned",
    suites=["layers", "language_modelling"],
    languages=["de", "zh", "tr"],
    limit=100,
    out=out / "run",
)

# %% The answer, in sentences: first the means, then who lost, then the price.
report = ax.judge(comparison)
for finding in report.findings:
    print("-", finding)

# %% The gate: what it would say, and by which rule.
print(report.verdict.sentence)
print(report.verdict.rule)

# %% The rows as a table: retrieval of translations by layer, against the control.
rows = comparison.to_frame()
curve = rows[
    (rows.metric == "precision_at_1")
    & rows.language.isna()
    & (rows.contrast == "candidate-control")
    & rows.layer.notna()
]
print(curve[["layer", "base", "candidate", "difference", "ci_low", "ci_high", "n", "verdict"]].to_string(index=False))

# %% What is known of a metric.
card = ax.METRICS["precision_at_1"]
print(f"{card.title}: {card.about}. Noticeable: {card.noticeable} ({card.unit}).")

# %% The page, and the same from disk without a model.
ax.save(report, out / "report.html")
again = ax.read_run(out / "run").comparison()
assert again.rows == comparison.rows
print(f"report: {out / 'report.html'}")

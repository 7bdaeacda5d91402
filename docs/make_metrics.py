"""Write docs/metrics.md from the registry: formula, invariances, bias, cost and source of every metric.

    python docs/make_metrics.py

A test compares the page with the output of this script.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from pathlib import Path

from repanalysis.metrics import Metric, get, names
from repanalysis.metrics._registry import INVARIANCES, STRUCTURES

PAGE = Path(__file__).with_name("metrics.md")
SECTIONS = ("Parameters", "Returns", "Raises", "Notes", "References", "Examples")
FAMILIES = {
    "Separation and concentration": (
        "class_mean_separation", "within_class_variance", "between_class_variance", "fisher_ratio", "fisher_trace_ratio",
    ),
    "Neural collapse": (
        "nc1", "nc1_quotient", "nc1_cdnv", "nc2_equinorm", "nc2_equiangular", "nc3_duality", "nc4_ncc_mismatch", "ncc_accuracy",
    ),
    "Rate": ("coding_rate", "coding_rate_classes", "rate_reduction", "rate_reduction_normalized", "shift_rate_reduction"),
    "Read-out": ("linear_probe_accuracy", "knn_accuracy", "lda_accuracy", "linear_separability", "ridge_r2"),
    "Dimension": ("effective_rank", "participation_ratio", "spectrum", "power_law_exponent", "intrinsic_dimension"),
    "Filters": ("filter_clusters",),
}  # fmt: skip
HEAD = """# Metrics

This page is written by `python docs/make_metrics.py` from the docstrings; do not edit it.

Throughout, a layer is n samples of d features (more axes are flattened) in K classes; mu_c and Sigma_c are mean and covariance
(ddof = 0) of class c, pi_c its weight: 1/K (`class_weight="balanced"`, the default) or n_c/n (`"empirical"`), the same in

    mu_G = sum_c pi_c mu_c,   Sigma_W = sum_c pi_c Sigma_c,   Sigma_B = sum_c pi_c (mu_c - mu_G)(mu_c - mu_G)^T.

Set parameters by `name:key=value,key=value`; the table has them in the column `variant`. Undefined values are NaN with a note
that gives the reason.

**Standard errors.** Metrics that are functions of moments have delete-a-group jackknife errors (10 groups of samples, by a
hash of their ids; `groups=`, `--groups`). Read-out accuracies have the error of a proportion of the scored samples, which
is never 0, and a jackknife of the fit. They estimate the variation over samples, not the bias at this n, which the null
distribution shows. How often value +- 1.96 se covers is measured in [uncertainty.md](uncertainty.md).

**Null.** `null=20` / `--null 20` permutes the labels 20 times and recomputes the metrics of classes, in separate rows with
columns `p` and `tail`: p = (b + 1)/(B + 1) for b of B permutations that reach the value, ties included, in the tail of more
class structure (below: higher (`up`), lower (`down`), or neither (`either`), for which p is two-sided). If n is not much
larger than d, a large part of a Fisher ratio is bias, and so it is of a rate reduction with few samples per class for its
dimensions. A note says so if the bias is more than a tenth by the formula in the metric's entry; `debiased=true` removes it
where that is possible.

**Labels and targets.** Metrics of classes omit samples without a label, `ridge_r2` those without a target; the note has
their number, and the column `n` that of the others. Other metrics use all samples.

**Samples.** Metrics of samples use up to `max_samples` of them, drawn by a hash of their ids; models are fitted to
one half (again by id) and scored on the other. The same ids give the same samples in every layer, run and shard.
"""


def sections(metric: Metric) -> dict[str, str]:
    """The parts of a metric's docstring, by heading; what comes before the first is under ""."""
    found, current = {"": ""}, ""
    lines = (inspect.getdoc(metric.function) or "").splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line in SECTIONS and set(below) == {"-"}:
            current = line
            found[current] = ""
        elif not (set(line) == {"-"} and found[current] == ""):
            found[current] += line + "\n"
    return {heading: text.strip("\n") for heading, text in found.items()}


def formula(text: str) -> str:
    """The formula of the opening part, as a block of mathematics."""
    found = re.search(r"\.\. math::(.*)", text, re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def structure(metric: Metric) -> str:
    """Which way the values of a metric go with more structure."""
    if isinstance(metric.structure, str):
        return STRUCTURES[metric.structure]
    named = [f'`"{variant}"` {STRUCTURES[way]}' for variant, way in metric.structure.items()]
    return "; ".join([*named, f"of other variants {STRUCTURES['either']}"])


def described(metric: Metric) -> str:
    """One metric's part of the page."""
    parts = sections(metric)
    kept = [INVARIANCES[name] for name in INVARIANCES if name in metric.invariant]
    chosen = {key: value for key, value in metric.parameters.items() if key not in ("head", "names")}
    options = ", ".join(f"`{key}={value}`" for key, value in chosen.items()) or "none"
    own = "the metric's own" if "tandard error" in parts["Notes"] else "none"
    error = "jackknife" if metric.has_jackknife_se else own
    return "\n".join(
        [
            f"### `{metric.name}`",
            "",
            metric.summary,
            "",
            f"$$ {formula(parts[''])} $$",
            "",
            "```text",
            textwrap.dedent(parts["Returns"]),
            "```",
            "",
            f"- **Unchanged by:** {'; '.join(kept) or 'none of the maps that are tested'}.",
            *([f"- **More structure:** {structure(metric)}."] if metric.min_classes or metric.needs_targets else []),
            f"- **Parameters:** {options}. **Standard error:** {error}.",
            f"- **Bias, cost:** {' '.join(parts['Notes'].split())}",
            f"- **Source:** {' '.join(parts['References'].split())}",
            "",
        ]
    )


def page() -> str:
    """The whole page."""
    rest = sorted(set(names()) - {name for family in FAMILIES.values() for name in family})
    families = FAMILIES | ({"Others": tuple(rest)} if rest else {})
    parts = [HEAD]
    for family, members in families.items():
        parts += [f"## {family}\n", *(described(get(name)) for name in members)]
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}: {len(names())} metrics.\n")

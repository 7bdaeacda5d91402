"""Write docs/metrics.md from the registry: what every metric is, what leaves it as it is, its bias, cost and source.

    python docs/make_metrics.py

A test holds the page to what this would write.
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
    "Rate": ("coding_rate", "coding_rate_classes", "rate_reduction", "rate_reduction_normalized"),
    "Read-out": ("linear_probe_accuracy", "knn_accuracy", "lda_accuracy", "linear_separability", "ridge_r2"),
    "Dimension": ("effective_rank", "participation_ratio", "spectrum", "power_law_exponent", "intrinsic_dimension"),
    "Filters": ("filter_clusters",),
}  # fmt: skip
HEAD = """# Metrics

This page is written by `python docs/make_metrics.py` from the docstrings; do not edit it.

Throughout, a layer is n samples of d features (more axes are flattened) in K classes; mu_c and Sigma_c are mean and covariance
(ddof = 0) of class c, pi_c its weight: 1/K (`class_weight="balanced"`, the default) or n_c/n (`"empirical"`), the same in

    mu_G = sum_c pi_c mu_c,   Sigma_W = sum_c pi_c Sigma_c,   Sigma_B = sum_c pi_c (mu_c - mu_G)(mu_c - mu_G)^T.

Choose parameters as `name:key=value,key=value`; they then stand in the table's column `variant`. What is undefined is NaN with
a note that says why.

**Standard errors.** Metrics that are functions of moments have delete-a-group jackknife errors (10 groups of samples, by a hash
of their ids; `groups=`, `--groups`). Read-out accuracies have the error of a share of the scored samples, which is never 0, and
a jackknife of what was fitted. They tell how much a value would vary with other samples, not how biased it is at this n: for
that look at the null. How often value +- 1.96 se covers is measured in [uncertainty.md](uncertainty.md).

**Null.** `null=20` / `--null 20` permutes the labels 20 times and computes what looks at them anew, in rows of their own, with
columns `p` and `tail`: p = (b + 1)/(B + 1) for b of B permutations that reach the value, ties included, in the tail in which
more structure of the classes lies (below: higher, lower, or neither, where p is two-sided).
With n not far above d much of a Fisher ratio, with few samples a class for its dimensions much of a rate reduction, is bias.
Notes say so where it is more than a tenth by the formula in the metric's entry, `debiased=true` takes it away where that can be
done, and the null shows it.

**Labels and targets.** Metrics that look at classes pass over samples without a label, `ridge_r2` over those without a target;
the note says how many, and the column `n` how many are left. The others look at all samples.

**Which samples.** Metrics of samples look at up to `max_samples` of them, drawn by a hash of their ids; what is fitted is
fitted on one half (again by id) and scored on the other. The same ids give the same samples in every layer, run and shard.
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

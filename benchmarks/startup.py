"""What starting costs: `import repanalysis` and `repanalysis --help` against `import numpy`, in processes of their own.

    python benchmarks/startup.py

Limits: 3 times and 5 times. Before names were imported when they are used, and commands with them, it was 8.6 and 11 times:
torch and pandas were loaded for a page of help. Of what is left, typer and rich take two thirds.

The minimum of 20 rounds, one after the other, so that all see the same machine; files are in the cache of the system.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 20
COMMANDS = {
    "import numpy": ["-c", "import numpy"],
    "import probes": ["-c", "import probes"],
    "import repanalysis": ["-c", "import repanalysis"],
    "repanalysis --help": ["-m", "repanalysis.cli", "--help"],
}
LIMITS = {"import repanalysis": 3.0, "repanalysis --help": 5.0}


def main() -> None:
    """Measure, print, and write the ratios to benchmarks/results."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, words in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - start)
    best = {name: min(values) for name, values in times.items()}
    ratios = {name: value / best["import numpy"] for name, value in best.items()}
    for name, ratio in ratios.items():
        limit = f"  (limit {LIMITS[name]:g}{'' if ratio <= LIMITS[name] else ', MISSED'})" if name in LIMITS else ""
        print(f"{name:20} {best[name]:6.3f} s  {ratio:5.2f} x{limit}")
    out = Path(__file__).parent / "results" / "startup.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"seconds": best, "ratios": ratios}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

"""How much of the code do the tests hold? Small changes are made to it, one at a time; a test has to turn red for each.

    pip install cosmic-ray                             # in the environment of the tests
    python benchmarks/mutants.py --share 0.3 -o mutants.csv
    python benchmarks/mutants.py --survivors mutants.csv -o again.csv           # after new tests

The changes ("mutants") are those of cosmic-ray's operators, at every place where they apply: an arithmetic operator becomes
another, a comparison is turned and its boundary moved, a number grows by one, a sign or a condition is turned, `and` becomes
`or`, True becomes False, a decorator, a loop or an exception handler goes. Of the up to eleven replacements of an operator one
is used, as `REPLACEMENTS` says. Annotations, the `*` between parameters and the arguments of `WITHOUT_EFFECT` are left alone:
no result depends on them. A mutant is killed if the tests fail, or run for `TIMEOUT` seconds; the tests of its own file run
first, then those of what is built on it. Before that, the tests have to pass on the unchanged code.

Every mutant runs in a fork of a process that has already loaded torch and the other libraries, which saves 5 s of 7. It is
compiled in memory, and pytest leaves assertions as they are, because it would read the file: no file changes. A process that a
test starts therefore sees the code as it is, and what only such a test would kill counts as survived. The table has one row per
mutant: file, line, operator, change, outcome, seconds.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import fnmatch
import importlib
import os
import random
import re
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 300.0  # s; five times what the slowest file's tests take on two idle cores
LIBRARIES = [
    *("torch", "torchvision", "timm", "scipy.stats", "sklearn.linear_model", "sklearn.neighbors", "h5py", "hdf5plugin"),
    *("hypothesis", "jaxtyping", "beartype.door", "typer", "matplotlib.pyplot", "xxhash", "safetensors", "cosmic_ray.plugins"),
]

# file -> tests, those that are nearest first; the first pattern that matches counts, {name} is that of the module
TESTS = {
    "repanalysis/metrics/_registry.py": "tests/metrics tests/conformance/test_metrics.py tests/test_testing.py",
    "repanalysis/metrics/_*.py": "{file} tests/metrics tests/conformance/test_metrics.py",
    "repanalysis/metrics/*.py": "{file} tests/metrics/test_{name}.py tests/metrics/test_undefined_values.py "
    "tests/conformance/test_metrics.py tests/test_docs.py::test_the_page_of_metrics_is_current",
    "repanalysis/statistics/*.py": "{file} tests/statistics tests/conformance/test_statistics.py tests/metrics",
    "repanalysis/analyses/stability/*.py": "{file} tests/analyses/stability/test_{name}.py tests/cli/test_stability.py",
    "probes/storage/journal.py": "{file} tests/probes/storage/test_journal.py tests/probes/storage",
}

# What changes no result: memory that LAPACK may reuse, checks of lengths and of finite input, attributes of classes, the
# conjugate (2) instead of the plain (1) transpose of real matrices.
WITHOUT_EFFECT = re.compile(r"(frozen|strict|eq|hash|overwrite_\w+|check_finite|clean|trans(_[ab])?)=\s*$|@abstractmethod")

# operator -> what replaces it
REPLACEMENTS = {
    "Add": ["Sub"],
    "Sub": ["Add"],
    "Mul": ["Div"],
    "Div": ["Mul"],
    "FloorDiv": ["Div"],
    "Mod": ["FloorDiv"],
    "Pow": ["Mul"],
    "RShift": ["LShift"],
    "LShift": ["RShift"],
    "BitOr": ["BitAnd"],
    "BitAnd": ["BitOr"],
    "BitXor": ["BitAnd"],
    "Lt": ["LtE", "GtE"],
    "LtE": ["Lt", "Gt"],
    "Gt": ["GtE", "LtE"],
    "GtE": ["Gt", "Lt"],
    "Eq": ["NotEq"],
    "NotEq": ["Eq"],
    "Is": ["IsNot"],
    "IsNot": ["Is"],
    "UAdd": ["USub"],
    "USub": ["UAdd"],
    "Invert": ["UAdd"],
    "Not": ["Nothing"],
}


@dataclass(frozen=True)
class Mutant:
    """One change: an operator of cosmic-ray at one of the places where it applies."""

    path: Path
    line: int
    operator: str
    occurrence: int

    def source(self) -> str | None:
        """The file's text with the change; None if it is not Python."""
        import cosmic_ray.plugins
        from cosmic_ray.mutating import MutationVisitor

        changed: str | None = MutationVisitor.mutate_code(
            self.path.read_text(), cosmic_ray.plugins.get_operator(self.operator)(), self.occurrence
        )
        try:
            ast.parse(changed or "")
        except SyntaxError:  # an operator took the star of `[*a]` for a product
            return None
        return changed


def tests_of(path: Path) -> list[str]:
    """The tests that hold a file; those that exist."""
    name = str(path.relative_to(ROOT))
    patterns = next(tests for pattern, tests in TESTS.items() if fnmatch.fnmatch(name, pattern))
    return [
        test
        for pattern in patterns.split()
        if (ROOT / (test := pattern.format(name=path.stem, file=name)).partition("::")[0]).exists()
    ]


def mutants_of(path: Path) -> Iterator[Mutant]:
    """All mutants of a file."""
    import cosmic_ray.plugins
    from cosmic_ray.ast import ast_nodes, get_ast

    source = path.read_text()
    nodes, annotations, lines = list(ast_nodes(get_ast(source))), _annotations(source), source.splitlines()
    for name in sorted(cosmic_ray.plugins.operator_names()):
        if not _used(name.rpartition("/")[2]):
            continue
        operator = cosmic_ray.plugins.get_operator(name)()
        starts = [start for node in nodes for start, _ in operator.mutation_positions(node)]
        for occurrence, start in enumerate(starts):
            lower = name.endswith("NumberReplacer") and occurrence % 2  # numbers grow, and are not made smaller as well
            before, after = lines[start[0] - 1][: start[1]], lines[start[0] - 1][start[1] :]
            separator = after.startswith("*,")  # of parameters, not a product
            skipped = lower or separator or WITHOUT_EFFECT.search(before) or WITHOUT_EFFECT.match(after)
            if not skipped and not any(first <= start < last for first, last in annotations):
                yield Mutant(path, start[0], name, occurrence)


def _used(operator: str) -> bool:
    if match := re.fullmatch(r"Replace(?:Binary|Comparison|Unary)Operator_(Delete_)?([A-Za-z]+?)(?:_([A-Za-z]+))?", operator):
        deleted, first, second = match.groups()
        return ("Nothing" if deleted else second) in REPLACEMENTS.get(first, ())
    return operator not in ("NoOp", "VariableInserter", "VariableReplacer")


def _annotations(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where annotations begin and end: (line, column)."""
    nodes: list[Any] = []
    for node in ast.walk(ast.parse(source)):
        nodes += [getattr(node, field) for field in ("annotation", "returns") if getattr(node, field, None) is not None]
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            nodes.append(node)
    return [((node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)) for node in nodes]


def change_of(before: str, after: str) -> str:
    """The line as it was, and as it is: `a < b -> a <= b`."""
    lines = [line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[0] in "+-"]
    return " -> ".join(" ".join(line[1:].split()) for line in sorted(lines, key=lambda line: line[0] == "+"))


def survivors(mutants: list[Mutant], earlier: pd.DataFrame) -> list[Mutant]:
    """Those that survived in an earlier run."""
    rows = earlier[earlier["outcome"] == "survived"]
    changes = set(zip(rows["file"], rows["operator"], rows["change"], strict=True))
    operators = {(file, operator) for file, operator, _ in changes}
    selected = []
    for mutant in mutants:
        file, operator = str(mutant.path.relative_to(ROOT)), mutant.operator.rpartition("/")[2]
        if (file, operator) in operators and (source := mutant.source()) is not None:
            selected += [mutant] if (file, operator, change_of(mutant.path.read_text(), source)) in changes else []
    return selected


def start(tests: list[str], folder: Path, path: Path | None = None, source: str = "") -> int:
    """Run tests in a fork in which `path` holds `source`; the process id. What they print is in the folder."""
    if pid := os.fork():
        return pid
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background of a shell ignores it
    log = os.open(folder / f"{os.getpid()}.log", os.O_RDWR | os.O_CREAT)
    for descriptor in range(3):
        os.dup2(log, descriptor)
    sys.dont_write_bytecode = path is not None
    target, get_data, path_stats = str(path), SourceFileLoader.get_data, SourceFileLoader.path_stats

    def changed_data(self: SourceFileLoader, name: str) -> bytes:
        return source.encode() if name == target else get_data(self, name)

    def changed_stats(self: SourceFileLoader, name: str) -> Any:
        return {"mtime": 0, "size": 0} if name == target else path_stats(self, name)

    SourceFileLoader.get_data, SourceFileLoader.path_stats = changed_data, changed_stats  # type: ignore[assignment,method-assign]
    import pytest

    options = ["-x", "-q", "-n", "0", "--assert=plain", "-p", "no:cacheprovider", f"--basetemp={folder / str(os.getpid())}"]
    try:
        code = int(pytest.main([*options, "-W", "ignore::pytest.PytestAssertRewriteWarning", *tests]))
    except BaseException:
        code = 1
    sys.stdout.flush()
    os._exit(code != 0)


def run(mutants: list[Mutant], processes: int, folder: Path) -> Iterator[dict[str, Any]]:
    """The outcome of each mutant, in the order in which they end."""
    running: dict[int, tuple[Mutant, str, float]] = {}
    queue = iter(mutants)
    ended = False
    while running or not ended:
        while len(running) < processes and not ended:
            if (mutant := next(queue, None)) is None:
                ended = True
            elif (source := mutant.source()) is not None:
                change = change_of(mutant.path.read_text(), source)
                running[start(tests_of(mutant.path), folder, mutant.path, source)] = (mutant, change, time.monotonic())
        time.sleep(0.02)
        for pid, (mutant, change, begun) in list(running.items()):
            seconds = time.monotonic() - begun
            ended_pid, status = os.waitpid(pid, os.WNOHANG)
            if seconds > TIMEOUT and not ended_pid:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                outcome = "timeout"
            elif ended_pid:
                outcome = "killed" if status else "survived"
            else:
                continue
            del running[pid]
            yield {
                "file": str(mutant.path.relative_to(ROOT)),
                "line": mutant.line,
                "operator": mutant.operator.rpartition("/")[2],
                "change": change,
                "outcome": outcome,
                "seconds": round(seconds, 2),
            }


def main() -> None:
    """Draw mutants, run them, print the share per folder, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="files or folders; by default all that TESTS names")
    parser.add_argument("--share", type=float, default=1.0, help="of the mutants of each file, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--survivors", type=Path, help="table of an earlier run: only the mutants that survived in it")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("-o", "--output", type=Path, default=Path("mutants.csv"))
    args = parser.parse_args()
    os.chdir(ROOT)
    sys.path[0] = str(ROOT)  # and not this folder, whose coverage.py is not the library
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for library in LIBRARIES:
        importlib.import_module(library)
    files = [path for pattern in TESTS for path in sorted(ROOT.glob(pattern)) if path.name != "__init__.py"]
    named = [(ROOT / name).resolve() for name in args.files]
    files = [path for path in dict.fromkeys(files) if not named or any(path.is_relative_to(name) for name in named)]
    rng = random.Random(args.seed)
    mutants = [mutant for path in files for mutant in mutants_of(path) if rng.random() < args.share]
    if args.survivors:
        mutants = survivors(mutants, pd.read_csv(args.survivors))
    rng.shuffle(mutants)
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        print("The unchanged code ...")
        pid = start(list(dict.fromkeys(test for path in files for test in tests_of(path))), folder)
        if os.waitpid(pid, 0)[1]:
            raise SystemExit(f"{(folder / f'{pid}.log').read_text()}\nThe tests fail without a change; make them green first.")
        for row in tqdm(run(mutants, args.processes, folder), total=len(mutants), unit="mutant", smoothing=0):
            rows.append(row)
            table = pd.DataFrame(rows).sort_values(["file", "line"], kind="stable")
            table.to_csv(args.output, index=False)
    if not rows:
        raise SystemExit("No mutants were drawn; name other files or a larger --share.")
    shares = (table["outcome"] != "survived").groupby(table["file"].map(os.path.dirname)).agg(["size", "sum", "mean"])
    print(shares.rename(columns={"size": "mutants", "sum": "killed", "mean": "share"}).to_string(float_format="{:.3f}".format))
    print(f"all: {(table['outcome'] != 'survived').mean():.3f} of {len(table)}")


if __name__ == "__main__":
    main()

"""One pass over activations, every metric of every layer: batches -> states -> values -> `Table`.

What a metric `needs` is computed once per layer, however many metrics share it. A file is read layer by layer, so that
the states of one layer are in memory at a time, and layers may go to other processes and machines; a stream of batches,
which comes only once, fills the states of all its layers together. Both take the same path.
"""

from __future__ import annotations

import functools
import math
import os
import pickle
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, ProcessPoolExecutor, as_completed
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from multiprocessing import get_context
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_doc import Doc
from annotated_types import Ge, Le
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

import probes
from probes import Batch, DataError, IncompleteError, LayerInfo, LeftOutWarning, Shards, UsageError
from probes.errors import reason_of
from probes.labels import MISSING
from probes.patterns import Patterns, select
from probes.relabelled import Relabelled
from probes.source import Source as Opened
from repanalysis._checks import MOST_PROCESSES
from repanalysis.analyses.declaration import (
    GroupsOption,
    LayersOption,
    MetricsOption,
    StateBudgetOption,
    StrictOption,
    analysis,
)
from repanalysis.analyses.geometry.states import (
    Job,
    LayerStates,
    StatisticsPlan,
    first_of_types,
    place_of,
    planned,
    resolution_of_layer,
)
from repanalysis.analyses.geometry.subset import Subset, read_superclasses, subset_of
from repanalysis.analyses.uncertainty import permutation_test, permuted
from repanalysis.heads.matching import by_class, relabelled
from repanalysis.inputs.labels import Column, aligned, label_file
from repanalysis.inputs.options import LABELS, TARGETS, IgnoreLabelsOption
from repanalysis.metrics import Head, Metric, get, names, parse
from repanalysis.specs import Read
from repanalysis.table import Table

__all__ = ["Source", "analyze"]

Source = str | PathLike[str] | Opened | Iterable[Batch] | Sequence[str | PathLike[str]]
Task = tuple[str, Job]  # a layer, and what is computed of it


class LayerRows(NamedTuple):
    """The table's rows of one layer, what the provenance says of it, and why it could not be analyzed, if it could not."""

    rows: list[dict[str, Any]]
    described: dict[str, Any]
    failure: str = ""
    error: Exception | None = None


def _head_from(text: str) -> tuple[Any, ...]:
    """The head that FILE:NAME holds."""
    from repanalysis.inputs.weights import load_head

    return load_head(text)


@analysis
def analyze(
    source: Source,
    metrics: MetricsOption = None,
    *,
    layers: LayersOption = None,
    run: str | None = None,
    model: str | None = None,
    split: Annotated[str | None, Doc("Analyze this split alone.")] = None,
    by_split: Annotated[bool, Doc("Analyze every split by itself.")] = False,
    classes: Annotated[
        Sequence[int | str] | None, Doc("Classes to look at, by label or name: cat,dog,7"), Read(lambda text: text.split(","))
    ] = None,
    superclasses: Annotated[
        Mapping[str, Sequence[int | str]] | None,
        Doc('TOML file of classes to join: animal = ["cat", "dog"]'),
        Read(read_superclasses, Path),
    ] = None,
    groups: GroupsOption = 10,
    null: Annotated[int, Ge(0), Doc("Permutations of the labels: what chance alone would give.")] = 0,
    seed: int = 0,
    head: Annotated[
        tuple[Any, ...] | None,
        Doc("Weights of the last linear layer, FILE:NAME, such as model.safetensors:fc"),
        Read(_head_from),
    ] = None,
    partial: Annotated[bool, Doc("Read what is there of an incomplete file.")] = False,
    state_budget: StateBudgetOption = 2 << 30,
    executor: Executor | None = None,
    workers: Annotated[int, Ge(0), Le(MOST_PROCESSES), Doc("Processes that analyze layers.")] = 0,
    recorded: Mapping[str, Any] | None = None,
    progress: bool | None = None,
    strict: StrictOption = False,
    ignore_labels: IgnoreLabelsOption = (),
    labels: Annotated[ArrayLike | str | PathLike[str] | None, *LABELS] = None,
    targets: Annotated[ArrayLike | str | PathLike[str] | None, *TARGETS] = None,
) -> Table:
    """Compute metrics of every layer, with their standard errors.

    Parameters
    ----------
    source : path, probes.Source, list of paths, or iterable of Batch
        Activations: a file, a folder or list of shards, or batches as `probes.capture` yields them (no file at all).
    metrics : str or iterable of str or Metric, optional
        Such as `["fisher_ratio", "rate_reduction:eps_sq=0.1"]`; default: all that there are.
    layers : str or sequence of str, optional
        Layer patterns (glob, `re:`, `type:`); default all.
    run : str, optional
        What the table calls this run; by default the file's name, or "run".
    model : str, optional
        What the table calls the model; by default what the file says.
    split : str, optional
        Analyze this split alone.
    by_split : bool, default False
        Analyze every split by itself.
    classes : sequence of int or str, optional
        Classes to look at, by label or name; default all.
    superclasses : mapping of str to sequence, optional
        Classes to join: `{"animal": ["cat", "dog"], "vehicle": ["car"]}`; samples of others are left out.
    groups : int, default 10
        Groups of samples that the jackknife leaves out in turn, for the standard errors of smooth metrics; 0 for none.
    null : int, default 0
        How many times to permute the labels and compute everything anew that looks at them: rows with perturbation "label
        permutation", whose value is the mean and whose se is the standard deviation of what labels without meaning give,
        whose `p` is that of the permutation test and whose `tail` ("up", "down", "either") says where more structure lies.
    seed : int, default 0
        Seed of the permutations.
    head : (weight, bias), optional
        The network's last linear layer, (K, d) and (K,), for `nc3_duality` and `nc4_ncc_mismatch`. By default the one that
        the file holds, rows matched to classes (`repanalysis.heads.matching`). Layers that it does not take get no value,
        unless such a metric is asked for by name: then NaN, with a note.
    partial : bool, default False
        Whether to read what is committed of an incomplete file.
    state_budget : int, default 2 GiB
        Bytes that the statistics may take; a metric of a layer too wide for it is NaN, with a note.
    executor : concurrent.futures.Executor, optional
        Where layers are analyzed, such as `dask.distributed.Client(...).get_executor()`; its workers must see the files.
    workers : int, default 0
        Processes of this machine that analyze layers; 0 for this one alone.
    recorded : mapping, optional
        Provenance of live batches: model, weights, data; a file brings its own.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.
    strict : bool, default False
        Whether to stop at the first layer that cannot be analyzed. Otherwise the values of such a layer are NaN with the
        reason in their note, the table's `failures` names it, and a warning says so.
    ignore_labels : collection of int, optional
        Labels that mean that a sample has none, besides -1 and -100. Metrics that look at labels pass over such samples, and
        their notes say how many; the others look at all.
    labels, targets : array-like, or path of a file, optional
        Labels and continuous targets in place of those that the source has: one a sample, in order, or `"FILE"` or
        `"FILE:COLUMN"`, matched by id (`repanalysis.inputs.labels`). Labels may be integers, text or one-hot rows.

    Returns
    -------
    Table
        A row per layer, metric and variant, in order of execution, with the provenance of every number.

    Raises
    ------
    UsageError
        If a metric, parameter, layer, split or class is unknown, or a stream should be read more than once.
    IncompleteError
        If the process that analyzes a layer dies, and again when it is done by itself; the message names the layer.
    DataError
        If there are no samples, no labels, continuous targets or one class only where a metric needs more; with `strict`, if
        a layer holds NaN or inf, or its statistics exceed the budget.

    Warns
    -----
    LeftOutWarning
        If layers could not be analyzed: they hold NaN or inf, exceed the budget, can't be read, or have no defined value.

    Notes
    -----
    Layers with more than one axis per sample are flattened. Time n d^2 per layer, and what the metrics take `groups` times
    more; memory: about 32 MB of rows, and K d^2 float64 of states `groups` + 3 times, for one layer at a time where the
    source is a file. Where K d^2 numbers would weigh more than the samples, these are kept instead.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat([0, 1], 50)
    >>> batch = Batch(ids=np.arange(100), layers={"relu": rng.normal(size=(100, 3)) + labels[:, None]}, labels=labels)
    >>> table = analyze([batch], "class_mean_separation")
    >>> len(table), table.frame["layer"].unique().tolist(), table.frame["n"].unique().tolist()
    (4, ['relu'], [100])
    """
    opened = _opened(source, partial=partial)
    ignored = tuple(sorted(set(ignore_labels)))
    opened = _relabelled(opened, labels, targets, ignored)
    recorded_head = _recorded_head(opened, ignored) if head is None and superclasses is None else None
    resolved = _resolve_metrics(metrics, recorded_head or head)
    choices = {"groups": groups, "null": null, "seed": seed}
    job = Job(tuple(resolved), **choices, budget=state_budget, skip_if_head_does_not_fit=metrics is None, strict=strict)  # type: ignore[arg-type]
    hidden = None if progress is None else not progress
    asked = {"split": split, "classes": classes, "superclasses": superclasses}
    job = replace(job, subset=replace(job.subset, ignore=ignored))
    if isinstance(opened, Opened):
        run, model = run or _default_run_name(opened), model or str(opened.attrs.get("model", ""))
        selected = select(layers, opened.info, opened.name)
        if not len(opened):
            raise DataError(f"{opened.name} holds no samples.")
        subsets = _subsets(opened, by_split=by_split, ignore=ignored, **asked)  # type: ignore[arg-type]
        jobs = [_checked(opened, replace(job, subset=subset)) for subset in subsets]
        jobs = [replace(each, types=first_of_types(opened.info.values())) for each in jobs]
        results = _analyze_file(opened, selected, jobs, executor=executor, workers=workers, hidden=hidden)
    else:
        if by_split or null or any(asked.values()) or executor or workers:
            raise UsageError("Batches come only once: splits, classes, null and workers need a file, or probes.from_arrays.")
        results = _of_stream(_select_layers(opened, layers), job, hidden=hidden)
    rows, described, failures = _joined(results, job)
    if not rows:
        raise DataError("There were no samples to analyze.")
    if head is not None and metrics is None and not any(row["metric"] == "nc3_duality" for row in rows):
        warnings.warn(
            f"No layer has the {np.shape(head[0])[1]} features that the head takes; its metrics were left out.", stacklevel=3
        )
    name = run or "run"
    choice = {key: _plain(value) for key, value in asked.items() if value is not None}
    drawn = choices | choice | ({"ignore_labels": list(ignored)} if ignored else {})
    provenance = _provenance(opened, resolved, described, recorded or {}, drawn)
    if failures:
        provenance["failures"] = failures
    table = Table.from_rows([{"run": name, "model": model or "", **row} for row in rows], {name: provenance})
    if failures:
        warnings.warn(f"{table.failure}; what is missing is NaN.", LeftOutWarning, stacklevel=3)
    return table


def _subsets(
    source: Opened,
    *,
    by_split: bool,
    split: str | None,
    classes: Sequence[int | str] | None,
    superclasses: Mapping[str, Sequence[int | str]] | None,
    ignore: tuple[int, ...],
) -> list[Subset]:
    """The choices of samples that are analyzed, one after the other."""
    splits: list[str | None] = [split]
    if by_split:
        if source.split is None:
            raise DataError(f"{source.name} has no splits to analyze one by one.")
        splits = sorted(set(source.split.tolist())) if split is None else [split]
    columns = source.labels, source.split, source.class_names
    options: dict[str, Any] = {"classes": classes, "superclasses": superclasses, "ignore": ignore}
    return [subset_of(*columns, split=name, **options)[0] for name in splits]


def _checked(source: Opened, job: Job) -> Job:
    """The job with the metrics that a subset can answer; raises where it is empty, or lacks what one that was named needs."""
    mask, labels = job.subset.choose(source.labels, source.split)
    if mask is not None and not mask.any():
        raise DataError(f"{source.name} has no samples of the selected split and classes.")
    job = _answered(job, source.name, labels=labels is not None, targets=source.targets is not None)
    _enough_classes(job.metrics, labels)
    if job.null and labels is None and source.targets is None:
        raise DataError(f"{source.name} has no labels to permute; leave null= (--null) out.")
    return job.naming(source.target_names)


def _answered(job: Job, title: str, *, labels: bool, targets: bool) -> Job:
    """The job without the metrics of labels or targets that nobody asked for by name, where the samples have only the others.

    Raises
    ------
    DataError
        If one was asked for.
    """
    of_classes = [metric.name for metric in job.metrics if metric.min_classes]
    of_targets = [metric.name for metric in job.metrics if metric.needs_targets]
    if job.skip_if_head_does_not_fit:  # all metrics, none by name
        lacking = {*(of_classes if targets and not labels else ()), *(of_targets if not targets else ())}
        if targets and not labels and of_classes:
            warnings.warn(
                f"The targets of {title} are continuous: {len(of_classes)} metrics that compare classes are left out.",
                stacklevel=5,
            )
        return replace(job, metrics=tuple(metric for metric in job.metrics if metric.name not in lacking))
    if of_classes and targets and not labels:
        raise DataError(
            f"The targets of {title} are continuous; {', '.join(of_classes)} need classes: use ridge_r2, or bin them and give "
            f"the bins as labels (--labels FILE)."
        )
    if of_targets and not targets:
        raise DataError(
            f"{title} has no continuous targets, which {', '.join(of_targets)} needs; give them with --targets FILE."
        )
    return job


def _analyze_file(
    source: Opened, layers: Sequence[str], jobs: Sequence[Job], *, executor: Executor | None, workers: int, hidden: bool | None
) -> list[LayerRows]:
    """Rows of every layer and choice of samples, from a source that can be read again."""
    tasks = [(layer, job) for layer in layers for job in jobs]
    results: dict[int, LayerRows] = {}
    with ExitStack() as stack:
        if executor is None and not workers:
            total = len(source) * sum(1 + job.null for _, job in tasks)
            bar = stack.enter_context(tqdm(total=total, unit=" rows", desc="analyze", disable=hidden))
            pending: Iterator[tuple[int, Callable[[], LayerRows]]] = (
                (index, functools.partial(_analyzed, source, *task, bar)) for index, task in enumerate(tasks)
            )
        else:
            for metric in {metric for job in jobs for metric in job.metrics if metric.origin}:
                pickle.dumps(metric)  # what can not be pickled hangs a pool that is shut down
            config = _reopen_args(source)
            bar = stack.enter_context(tqdm(total=len(tasks), unit=" layers", desc="analyze", disable=hidden))
            results_of = _in_processes(workers, config, tasks) if executor is None else _submitted(executor, config, tasks)
            pending = stack.enter_context(closing(results_of))
        for index, result in pending:
            results[index] = _attempted(result, source, *tasks[index])
            if executor is not None or workers:
                bar.update()
    return [results[index] for index in sorted(results)]


def _attempted(result: Callable[[], LayerRows], source: Opened, layer: str, job: Job) -> LayerRows:
    """A layer's rows, or, where they can't be had, undefined ones with the reason."""
    try:
        return result()
    except UsageError:  # a mistake in what was asked for is none of the layer's
        raise
    except Exception as error:
        if job.strict:
            raise
        mask, _ = job.subset.choose(source.labels, source.split)
        return _failed(source.info[layer], job, len(source) if mask is None else int(mask.sum()), error)


def _failed(info: LayerInfo, job: Job, n: int, error: Exception) -> LayerRows:
    """Rows of a layer whose analysis raised."""
    reason = reason_of(error)
    base = place_of(info) | {"split": job.subset.split or "", "value": math.nan, "n": n, "note": reason}
    described = {"dims": info.dims, "pool": info.pool, "source_shape": info.source_shape}
    return LayerRows([base | {"metric": metric.name} for metric in job.metrics], described, reason, error)


def _joined(results: Sequence[LayerRows], job: Job) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]], dict[str, str]]:
    """All rows, what the layers are, and why some could not be analyzed."""
    errors = [result.error for result in results if result.error is not None]
    if errors and len(errors) == len(results):  # what fails everywhere is no matter of a layer
        raise errors[0]
    heads = {metric.name for metric in job.metrics if metric.needs_head or "head" in metric.params}  # have values at few layers
    described: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    for result in results:
        if result.rows:
            layer = result.rows[0]["layer"]
            described[layer] = result.described
            judged = [row for row in result.rows if row["metric"] not in heads]
            undefined = bool(judged) and all(math.isnan(row["value"]) for row in judged)
            if reason := result.failure or (f"no metric is defined there ({judged[0]['note']})" if undefined else ""):
                failures.setdefault(layer, reason)
    return _with_variants(results), described, failures


def _with_variants(results: Sequence[LayerRows]) -> list[dict[str, Any]]:
    """All rows; a metric that a layer failed to give is undefined in every variant that other layers have."""
    variants: dict[str, dict[str, None]] = {}
    for result in results:
        for row in result.rows:
            if not result.failure:
                variants.setdefault(row["metric"], {})[row["variant"]] = None
    rows = []
    for result in results:
        counts = Counter(row["metric"] for row in result.rows)
        for row in result.rows:
            failed = result.failure and counts[row["metric"]] == 1 and math.isnan(row["value"])
            rows += [row | {"variant": variant} for variant in variants.get(row["metric"], [""])] if failed else [row]
    return rows


def _submitted(executor: Executor, config: Any, tasks: Sequence[Task]) -> Generator[tuple[int, Callable[[], Any]]]:
    """Results of tasks, as an executor has them.

    Dask does the tasks of a dead worker again, three times by default, and then gives up all that were on it each time. Each of
    these is done again by itself: most likely another has taken it along.
    """
    futures = {executor.submit(_analyze_in_worker, config, *task): index for index, task in enumerate(tasks)}
    killed = {}
    for done in _completed(futures):
        if _was_killed(done):
            killed[futures[done]] = done
        else:
            yield futures[done], functools.partial(_outcome, done, tasks[futures[done]][0])
    for index, died in killed.items():
        again = died
        with suppress(RuntimeError):  # unless the executor is gone
            again = executor.submit(_analyze_in_worker, config, *tasks[index], attempt=2)
        yield index, functools.partial(_outcome, again, tasks[index][0])


def _was_killed(future: Any) -> bool:
    """Whether dask gave a task up because workers died, or lost its result with one."""
    try:
        return type(future.exception()).__name__ == "KilledWorker"
    except CancelledError:
        return True
    except AttributeError:
        return False


def _completed(futures: Mapping[Any, int]) -> Iterator[Any]:
    """Futures as they are done; of executors with futures of their own, in order."""
    try:
        yield from as_completed(futures)
    except (AttributeError, TypeError):
        yield from futures


def _in_processes(workers: int, config: Any, tasks: Sequence[Task]) -> Generator[tuple[int, Callable[[], Any]]]:
    """Results of tasks, as processes of this machine have them.

    Where a process dies, Python gives up all of them. The tasks that may have run in it are the first that are not done: they
    are done again, each in a process of its own, and then the others.
    """
    left = dict(enumerate(tasks))
    while left:
        yield from _in_a_pool(workers, config, left)
        for index in list(left)[: workers + 1]:  # one more than run: a pool hands out the next in advance
            task = left.pop(index)
            pool = _processes(1, workers)
            future = pool.submit(_analyze_in_worker, config, *task)
            pool.shutdown()
            yield index, functools.partial(_outcome, future, task[0])


def _in_a_pool(workers: int, config: Any, left: dict[int, Task]) -> Generator[tuple[int, Callable[[], Any]]]:
    """Results of tasks that a pool of processes comes to; these are taken out of those that are left."""
    pool = _processes(workers, workers)
    try:
        with suppress(BrokenExecutor):  # while tasks are handed out
            futures = {pool.submit(_analyze_in_worker, config, *task): index for index, task in left.items()}
            for done in as_completed(futures):
                if not isinstance(done.exception(), BrokenExecutor):
                    del left[futures[done]]
                    yield futures[done], done.result
    finally:
        pool.shutdown(cancel_futures=True)


def _outcome(future: Any, layer: str) -> Any:
    """A future's result; a sentence where whoever computed it died."""
    try:
        return future.result()
    except Exception as error:
        if isinstance(error, BrokenExecutor | CancelledError) or type(error).__name__ == "KilledWorker":  # dask's
            raise IncompleteError(
                f"The process that analyzed {layer!r} died whenever it was tried: it was killed, or memory was short. Fewer "
                "workers, a smaller state budget, or fewer layers may help; a script needs `if __name__ == '__main__':`."
            ) from error
        raise


def _processes(count: int, workers: int) -> ProcessPoolExecutor:
    """Processes, each with its share of the cores that so many workers have between them."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_limit_threads, initargs=(threads,))


def _limit_threads(threads: int) -> None:
    """Worker initializer: limits the threads of BLAS, which importing this module has loaded."""
    threadpool_limits(threads)


def _reopen_args(source: Opened) -> Any:
    """What another process opens: paths, and the identity of what is there; what lies in memory goes as it is."""
    stores = getattr(source, "stores", [source])
    if all(hasattr(store, "path") for store in stores):
        files = tuple((str(Path(store.path).resolve()), store.identity) for store in stores)
        return files, "many" if isinstance(source, Shards) else "one"
    return source


def _analyze_in_worker(config: Any, layer: str, job: Job, *, attempt: int = 1) -> LayerRows:  # noqa: ARG001  # dask takes equal calls for one
    """One layer, in another process."""
    return _analyzed(config if isinstance(config, Opened) else _reopened(*config), layer, job, None)


@functools.lru_cache(maxsize=1)
def _reopened(files: tuple[tuple[str, Any], ...], kind: str) -> Opened:
    """The files of a config; a process opens them once, not for every layer."""
    paths = [path for path, _ in files]
    source = probes.open(
        paths if kind == "many" else paths[0], partial=True
    )  # the caller has checked whether they are complete
    for store, (_, identity) in zip(getattr(source, "stores", [source]), files, strict=True):
        store.refuse_replaced(identity)
    return source


def _analyzed(source: Opened, layer: str, job: Job, bar: Any) -> LayerRows:
    """Rows of one layer."""
    mask, labels = job.subset.choose(source.labels, source.split)
    classes = [] if labels is None else np.unique(labels[labels != MISSING]).tolist()
    n = len(source) if mask is None else int(mask.sum())

    def states(labels: NDArray[np.int64] | None, job: Job, aims: NDArray[np.float64] | None = None) -> LayerStates:
        layer_states: LayerStates | None = None
        start = 0
        for batch in source.iter([layer]):
            if layer_states is None:
                d = int(np.prod(batch.layers[layer].shape[1:]))
                job = job.fitting(d, batch.info[layer].source_shape)
                plan = planned(job.metrics, d, max(1, len(classes)), n, groups=job.groups, budget=job.budget)
                resolution = resolution_of_layer(job.types, batch.info[layer])
                layer_states = LayerStates(batch.info[layer], job, plan, d, classes, resolution=resolution)
            part = slice(start, start + len(batch))
            layer_states.absorb(batch, None if labels is None else labels[part], None if aims is None else aims[part])
            start += len(batch)
            if bar is not None:
                bar.update(len(batch))
        assert layer_states is not None
        return layer_states

    whole = states(None, job)
    rows = list(whole.rows())
    label_metrics = replace(
        job, groups=0, metrics=tuple(metric for metric in job.metrics if metric.min_classes or metric.needs_targets)
    )
    if job.null and label_metrics.metrics and whole.non_finite is None:
        draws = [_permuted_rows(states, source, label_metrics, draw, mask) for draw in range(job.null)]
        rows += _null_rows(rows, draws)
    return _layer_rows(whole, rows)


def _layer_rows(states: LayerStates, rows: list[dict[str, Any]]) -> LayerRows:
    """Rows of a layer whose states are complete; with strict, an error where a statistic was beyond the budget."""
    if states.failure and states.job.strict:
        raise DataError(f"Layer {states.info.name!r} can't be analyzed: {states.failure}.")
    return LayerRows(rows, states.described, states.failure)


def _permuted_rows(states: Any, source: Opened, job: Job, draw: int, mask: Any) -> dict[tuple[Metric, str], float]:
    """Values under labels and targets in random order; those of samples that are not looked at, or have none, stay."""
    selected = np.ones(len(source), bool) if mask is None else mask
    labels, targets = source.labels, source.targets
    if labels is not None:
        present = selected & ~job.subset.missing(labels)
        labels = np.array(labels)
        labels[present] = permuted(labels[present], job.seed, draw)
    if targets is not None:
        present = selected & ~np.isnan(targets).all(axis=1)
        targets = np.array(targets)
        targets[present] = permuted(targets[present], job.seed, draw)
    permuted_states = states(labels, job, targets)
    return {key: float(value) for key, value in permuted_states.values().items()}


def _null_rows(rows: Sequence[Mapping[str, Any]], draws: Sequence[Mapping[tuple[Metric, str], float]]) -> list[dict[str, Any]]:
    """A row per metric and variant: what labels without meaning give."""
    keys = {(metric.name, variant): (metric, variant) for metric, variant in draws[0]}
    drawn = []
    for row in rows:
        if (key := keys.get((row["metric"], row["variant"]))) is None:
            continue
        metric, variant = key
        values = [draw[key] for draw in draws]
        null = permutation_test(row["value"], values, metric.tail(variant), dimensionless="scaling" in metric.invariant)
        drawn.append({
            **row, "perturbation": "label permutation", "strength": float(len(draws)), "value": null.mean, "se": null.spread,
            "p": null.p, "tail": null.tail, "note": null.note,
        })  # fmt: skip
    return drawn


def _of_stream(batches: Iterable[Batch], job: Job, *, hidden: bool | None) -> list[LayerRows]:
    """Rows of every layer of batches that come once."""
    with tqdm(unit=" rows", desc="analyze", disable=hidden) as bar:
        return [_of_states(layer) for layer in list(_streamed(batches, job, bar))]


def _of_states(states: LayerStates) -> LayerRows:
    """Rows of a layer of a stream, undefined ones where metrics raise."""
    try:
        return _layer_rows(states, list(states.rows()))
    except UsageError:
        raise
    except Exception as error:
        if states.job.strict:
            raise
        return _failed(states.info, states.job, states.n, error)


def _resolve_metrics(metrics: str | Iterable[str | Metric] | None, head: tuple[Any, ...] | None) -> list[Metric]:
    """Metrics by name, by specification, or as they are; with the network's head, where they need it."""
    selected = _parse_metrics(metrics)
    if head is None:
        return [metric for metric in selected if metrics is not None or not metric.needs_head]
    if len(head) < 2:
        raise UsageError("The head is weights (K, d) and offsets (K,): give both.")
    weight, bias = (np.asarray(part, np.float64) for part in head[:2])
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise UsageError(f"The head has weights {weight.shape} and offsets {bias.shape}; (K, d) and (K,) are needed.")
    own_head = head._replace(weight=weight, bias=bias) if isinstance(head, Head) else Head(weight, bias)
    return [get(metric.name, **metric.params, head=own_head) if metric.needs_head else metric for metric in selected]


def _recorded_head(source: Opened | Iterable[Batch], ignored: tuple[int, ...]) -> Head | None:
    """The head that a file holds, a row for each class of its labels, or why that can't be."""
    if not isinstance(source, Opened) or source.head is None or (labels := source.labels) is None or not len(labels):
        return None
    return by_class(source.head, source.attrs, source.class_names, labels[~Subset(ignore=ignored).missing(labels)])


def _parse_metrics(metrics: str | Iterable[str | Metric] | None) -> list[Metric]:
    if metrics is None:
        return [get(name) for name in names()]
    items = [metrics] if isinstance(metrics, str) else metrics
    metrics_named = [metric for item in items for metric in ([item] if isinstance(item, Metric) else parse(item))]
    return metrics_named or [get("")]


def _opened(source: Source, *, partial: bool) -> Opened | Iterable[Batch]:
    if isinstance(source, str | PathLike):
        return probes.open(source, partial=partial)
    if isinstance(source, list | tuple) and source and all(isinstance(item, str | PathLike) for item in source):
        return probes.open(source, partial=partial)
    return source  # type: ignore[return-value]  # what is left are stores and batches


def _relabelled(source: Opened | Iterable[Batch], labels: Any, targets: Any, ignored: tuple[int, ...]) -> Any:
    """A source with the labels and targets that were given."""
    if labels is None and targets is None:
        return source
    if not isinstance(source, Opened):
        raise UsageError("Batches bring their own labels; labels= and targets= need a file, or probes.from_arrays.")
    if not len(source):
        raise DataError(f"{source.name} holds no samples.")
    for values, continuous in ((labels, False), (targets, True)):
        if values is None:
            continue
        column = label_file(str(values)) if isinstance(values, str | PathLike) else Column("the array", values)
        annotations, how = aligned(column, source.ids, source.name, ignore=ignored, continuous=continuous)
        if annotations.note:
            warnings.warn(annotations.note, stacklevel=4)
        both = "; ".join(filter(None, [str(source.attrs.get("labels", "")) if continuous else "", how]))
        attrs = source.attrs if annotations.labels is None else relabelled(source.attrs)
        source = Relabelled(source, annotations, dict(attrs) | {"labels": both})
    return source


def _default_run_name(source: Opened) -> str:
    """What a run is called if nobody says: after the file, or the folder of shards."""
    return Path(source.stores[0].path).resolve().parent.name if isinstance(source, Shards) else Path(source.name).stem


def _select_layers(batches: Iterable[Batch], patterns: Patterns) -> Iterator[Batch]:
    """Batches with the wanted layers alone."""
    for batch in batches:
        selected = select(patterns, batch.info, "the batches")
        layers = {name: batch.layers[name] for name in selected}
        yield replace(batch, layers=layers, info={name: batch.info[name] for name in selected})


def _enough_classes(metrics: Sequence[Metric], labels: NDArray[np.int64] | None) -> None:
    """Raise where a metric needs labels, or two classes, that are not there."""
    classes = None if labels is None else np.unique(labels[labels != MISSING])
    k = 0 if classes is None else len(classes)
    starved = [metric.name for metric in metrics if metric.min_classes > k]
    if not starved:
        return
    rest = [metric.name for metric in metrics if metric.min_classes <= k]
    instead = f" Choose metrics that do without: {', '.join(rest)}." if rest else ""
    if classes is None or not len(classes):
        what = "have no labels" if classes is None else "have none but labels that mean none (-1, -100)"
        raise DataError(
            f"The activations {what}, which {', '.join(starved)} need; give them with --labels FILE (labels=).{instead}"
        )
    more = "" if labels is None or len(labels) < 2 or (labels != MISSING).all() else " (-1 means that a sample has none)"
    raise DataError(f"All samples are of one class ({classes[0]}){more}, and {', '.join(starved)} compare classes.{instead}")


def _streamed(batches: Iterable[Batch], job: Job, bar: Any) -> Iterator[LayerStates]:
    """The layers of a stream of batches with their final states, in order of execution."""
    layers: dict[str, LayerStates] = {}
    first: Mapping[str, Any] | None = None
    for batch in batches:
        if first is None:
            first = batch.info
            job = _answered(job, "the batches", labels=batch.labels is not None, targets=batch.targets is not None)
            if batch.labels is None:
                _enough_classes(job.metrics, None)
            job = job.naming(batch.target_names)
            classes = [] if batch.labels is None else np.unique(batch.labels[~job.subset.missing(batch.labels)]).tolist()
            types = first_of_types(batch.info.values())
            for name, info in batch.info.items():
                d = int(np.prod(batch.layers[name].shape[1:]))
                budget = job.budget // len(batch.info)
                mine = job.fitting(d, info.source_shape)
                plan = planned(mine.metrics, d, max(1, len(classes)), None, groups=mine.groups, budget=budget)
                resolution = resolution_of_layer(types, info)
                layers[name] = LayerStates(info, mine, plan, d, classes, resolution=resolution)
        elif list(batch.info) != list(first):
            changed = sorted(set(first) ^ set(batch.info))
            if not set(changed) <= set(batch.skipped):
                raise DataError(f"The batches do not all hold the same layers ({', '.join(changed[:3])}).")
            for name in changed:
                reasons = dict.fromkeys((metric.needs for metric in job.metrics), batch.skipped[name])
                layers[name] = LayerStates(layers[name].info, job, StatisticsPlan((), reasons), layers[name].d)
            first = batch.info
        for name in batch.info:
            layers[name].absorb(batch)
            bar.update(len(batch))
    for layer in layers.values():
        if layer.labelled or layer.n:
            seen = sorted(layer.seen_classes) + [MISSING] * (layer.n_labelled < layer.n)
            _enough_classes(job.metrics, np.array(seen, np.int64) if layer.labelled else None)
        yield layer


def _provenance(
    source: Opened | Iterable[Batch],
    metrics: Sequence[Metric],
    layers: Mapping[str, Mapping[str, Any]],
    recorded: Mapping[str, Any],
    drawn: Mapping[str, Any],
) -> dict[str, Any]:
    """How the numbers were obtained, as JSON can hold it."""
    stored = source if isinstance(source, Opened) else None
    return {
        "source": stored.name if stored else "batches in memory",
        "recorded": {key: value for key, value in (stored.attrs if stored else recorded).items() if key != "left_out"},
        "layers": {name: {key: _plain(value) for key, value in facts.items()} for name, facts in layers.items()},
        "metrics": {metric.name: {key: _plain(value) for key, value in metric.parameters.items()} for metric in metrics},
        **({"code": code} if (code := {metric.name: metric.origin for metric in metrics if metric.origin}) else {}),
        **drawn,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Head):
        return f"weights of shape {value.weight.shape}"
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple | list | set) else value

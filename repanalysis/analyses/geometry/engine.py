"""Every metric of every layer in one pass over the activations: batches -> states -> values -> `Table`.

The statistic that a metric `needs` is computed once per layer and shared by all metrics that need it. A file is read layer by
layer: the states of one layer are in memory at a time, and layers may be analyzed by other processes and machines. A stream of
batches can be read only once, so the states of all its layers are filled together. Both use the same code.
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
from probes.source import Source
from repanalysis._checks import MOST_PROCESSES
from repanalysis.analyses.declaration import (
    GroupsOption,
    LayersOption,
    MetricLike,
    MetricsOption,
    StateBudgetOption,
    StrictOption,
    analysis,
)
from repanalysis.analyses.geometry.states import (
    Job,
    LayerStates,
    StatisticsPlan,
    first_layer_of_dtypes,
    layer_columns,
    plan_statistics,
    resolution_of_layer,
)
from repanalysis.analyses.geometry.subset import Subset, read_superclasses, subset_of
from repanalysis.analyses.uncertainty import permutation_test, permuted
from repanalysis.heads.matching import by_class, relabelled
from repanalysis.inputs.labels import Column, aligned, label_file
from repanalysis.inputs.options import LABELS, TARGETS, IgnoreLabelsOption
from repanalysis.metrics import Head, Metric, get, metric_of, names, parse
from repanalysis.specs import Read
from repanalysis.table import Table

__all__ = ["SourceLike", "analyze"]

SourceLike = str | PathLike[str] | Source | Iterable[Batch] | Sequence[str | PathLike[str]]
Task = tuple[str, Job]  # a layer's name, and its job


class LayerRows(NamedTuple):
    """One layer's rows of the table, its entry in the provenance, and the reason and error if it could not be analyzed."""

    rows: list[dict[str, Any]]
    layer_attrs: dict[str, Any]
    failure: str = ""
    error: Exception | None = None


def _load_head(text: str) -> tuple[Any, ...]:
    """The linear layer stored at FILE:NAME."""
    from repanalysis.inputs.weights import load_head

    return load_head(text)


@analysis
def analyze(
    source: SourceLike,
    metrics: MetricsOption = None,
    *,
    layers: LayersOption = None,
    run: str | None = None,
    model: str | None = None,
    split: Annotated[str | None, Doc("Analyze this split alone.")] = None,
    by_split: Annotated[bool, Doc("Analyze every split by itself.")] = False,
    classes: Annotated[
        Sequence[int | str] | None, Doc("Classes to analyze, by label or name: cat,dog,7"), Read(lambda text: text.split(","))
    ] = None,
    superclasses: Annotated[
        Mapping[str, Sequence[int | str]] | None,
        Doc('TOML file of classes to join: animal = ["cat", "dog"]'),
        Read(read_superclasses, Path),
    ] = None,
    groups: GroupsOption = 10,
    null: Annotated[int, Ge(0), Doc("Permutations of the labels, for the null distribution.")] = 0,
    seed: int = 0,
    head: Annotated[
        tuple[Any, ...] | None,
        Doc("Weights of the last linear layer, FILE:NAME, such as model.safetensors:fc"),
        Read(_load_head),
    ] = None,
    partial: Annotated[bool, Doc("Read the committed samples of an incomplete file.")] = False,
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
        Such as `["fisher_ratio", "rate_reduction:eps_sq=0.1"]`; by default all metrics.
    layers : str or sequence of str, optional
        Layer patterns (glob, `re:`, `type:`); default all.
    run : str, optional
        Name of the run in the table; by default the file's name, or "run".
    model : str, optional
        Name of the model in the table; by default the one recorded in the file.
    split : str, optional
        Analyze this split alone.
    by_split : bool, default False
        Analyze every split by itself.
    classes : sequence of int or str, optional
        Classes to analyze, by label or name; default all.
    superclasses : mapping of str to sequence, optional
        Classes to join: `{"animal": ["cat", "dog"], "vehicle": ["car"]}`. Samples of other classes are left out.
    groups : int, default 10
        Groups of samples that the jackknife leaves out in turn, for the standard errors of smooth metrics; 0 for none.
    null : int, default 0
        Permutations of the labels. Every metric that uses labels is computed again under each of them. This adds rows with
        perturbation "label permutation": `value` is the mean and `se` the standard deviation of the null distribution, `p` is
        the p-value of the permutation test, and `tail` ("up", "down", "either") is the direction of more structure.
    seed : int, default 0
        Seed of the permutations.
    head : (weight, bias), optional
        The network's last linear layer, (K, d) and (K,), for `nc3_duality` and `nc4_ncc_mismatch`. By default the head
        recorded in the file, its rows matched to classes (`repanalysis.heads.matching`). Layers whose features do not fit the
        head have no rows of these metrics, unless `metrics` names them: then the value is NaN, with a note.
    partial : bool, default False
        Whether to read the committed samples of an incomplete file.
    state_budget : int, default 2 GiB
        Bytes that the statistics may take. If a layer is too wide for a metric's statistic, the value is NaN, with a note.
    executor : concurrent.futures.Executor, optional
        Runs the analysis of layers, such as `dask.distributed.Client(...).get_executor()`; its workers must see the files.
    workers : int, default 0
        Local processes that analyze layers; 0 to use the calling process only.
    recorded : mapping, optional
        Provenance of live batches: model, weights, data. A file has its own.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.
    strict : bool, default False
        Whether to stop at the first layer that cannot be analyzed. Otherwise its values are NaN with the reason in their
        note, the table's `failures` lists the layer, and a warning is issued.
    ignore_labels : collection of int, optional
        Labels that mark a sample as unlabelled, besides -1 and -100. Metrics that use labels skip such samples and count them
        in their notes; other metrics use all samples.
    labels, targets : array-like, or path of a file, optional
        Labels and continuous targets in place of the source's own: an array with one entry per sample, in order, or `"FILE"`
        or `"FILE:COLUMN"`, matched by id (`repanalysis.inputs.labels`). Labels may be integers, text or one-hot rows.

    Returns
    -------
    Table
        A row per layer, metric and variant, in order of execution, with provenance.

    Raises
    ------
    UsageError
        If a metric, parameter, layer, split or class is unknown, or an option needs a second pass over a stream.
    IncompleteError
        If the process that analyzes a layer dies twice, the second time with no other layer; the message names the layer.
    DataError
        If there are no samples, or a metric lacks the labels, targets or second class that it needs; with `strict`, if a layer
        holds NaN or inf, or its statistics exceed the budget.

    Warns
    -----
    LeftOutWarning
        If layers could not be analyzed: they hold NaN or inf, exceed the budget, can't be read, or have no defined value.

    Notes
    -----
    Layers with more than one axis per sample are flattened. Time per layer: n d^2, plus `groups` + 1 times the time of the
    metrics. Memory: about 32 MB of rows, and `groups` + 3 states of K d^2 float64 numbers, for one layer at a time if the
    source is a file. Where K d^2 numbers would take more memory than the samples, the samples are stored instead.

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
    resolved = _with_head(metrics, recorded_head or head)
    job = Job(
        tuple(resolved), groups=groups, null=null, seed=seed, budget=state_budget,
        default_metrics=metrics is None, strict=strict,
    )  # fmt: skip
    hidden = None if progress is None else not progress
    subset_options = {"split": split, "classes": classes, "superclasses": superclasses}
    job = replace(job, subset=replace(job.subset, ignore=ignored))
    if isinstance(opened, Source):
        run, model = run or _default_run_name(opened), model or str(opened.attrs.get("model", ""))
        selected = select(layers, opened.info, opened.name)
        if not len(opened):
            raise DataError(f"{opened.name} holds no samples.")
        subsets = _subsets(opened, by_split=by_split, ignore=ignored, **subset_options)  # type: ignore[arg-type]
        jobs = [_check_subset(opened, replace(job, subset=subset)) for subset in subsets]
        jobs = [replace(each, types=first_layer_of_dtypes(opened.info.values())) for each in jobs]
        results = _analyze_file(opened, selected, jobs, executor=executor, workers=workers, hidden=hidden)
    else:
        if by_split or null or any(subset_options.values()) or executor or workers:
            raise UsageError("Batches come only once: splits, classes, null and workers need a file, or probes.from_arrays.")
        results = _analyze_stream(_select_layers(opened, layers), job, hidden=hidden)
    rows, layer_attrs, failures = _merged(results, job)
    if not rows:
        raise DataError("There were no samples to analyze.")
    if head is not None and metrics is None and not any(row["metric"] == "nc3_duality" for row in rows):
        warnings.warn(
            f"No layer has the {np.shape(head[0])[1]} features that the head takes; its metrics were left out.", stacklevel=3
        )
    name = run or "run"
    selection = {key: _plain(value) for key, value in subset_options.items() if value is not None}
    options = {"groups": groups, "null": null, "seed": seed} | selection | ({"ignore_labels": list(ignored)} if ignored else {})
    provenance = _provenance(opened, resolved, layer_attrs, recorded or {}, options)
    if failures:
        provenance["failures"] = failures
    table = Table.from_rows([{"run": name, "model": model or "", **row} for row in rows], {name: provenance})
    if failures:
        warnings.warn(f"{table.failure}; its values are NaN.", LeftOutWarning, stacklevel=3)
    return table


def _subsets(
    source: Source,
    *,
    by_split: bool,
    split: str | None,
    classes: Sequence[int | str] | None,
    superclasses: Mapping[str, Sequence[int | str]] | None,
    ignore: tuple[int, ...],
) -> list[Subset]:
    """One subset per analyzed split."""
    splits: list[str | None] = [split]
    if by_split:
        if source.split is None:
            raise DataError(f"{source.name} has no splits to analyze one by one.")
        splits = sorted(set(source.split.tolist())) if split is None else [split]
    columns = source.labels, source.split, source.class_names
    options: dict[str, Any] = {"classes": classes, "superclasses": superclasses, "ignore": ignore}
    return [subset_of(*columns, split=name, **options)[0] for name in splits]


def _check_subset(source: Source, job: Job) -> Job:
    """The job with the metrics that are defined on its subset.

    Raises
    ------
    DataError
        If the subset is empty, or lacks the labels, classes or targets that a metric named by the caller needs.
    """
    mask, labels = job.subset.apply(source.labels, source.split)
    if mask is not None and not mask.any():
        raise DataError(f"{source.name} has no samples of the selected split and classes.")
    job = _drop_unanswerable(job, source.name, labels=labels is not None, targets=source.targets is not None)
    _require_classes(job.metrics, labels)
    if job.null and labels is None and source.targets is None:
        raise DataError(f"{source.name} has no labels to permute; leave null= (--null) out.")
    return job.with_target_names(source.target_names)


def _drop_unanswerable(job: Job, title: str, *, labels: bool, targets: bool) -> Job:
    """The job; by default without metrics that need classes if there are only targets, or that need targets if there are none.

    Raises
    ------
    DataError
        If the caller named such a metric.
    """
    of_classes = [metric.name for metric in job.metrics if metric.min_classes]
    of_targets = [metric.name for metric in job.metrics if metric.needs_targets]
    if job.default_metrics:
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
    source: Source, layers: Sequence[str], jobs: Sequence[Job], *, executor: Executor | None, workers: int, hidden: bool | None
) -> list[LayerRows]:
    """Rows of every layer and subset, from a source that can be read more than once."""
    tasks = [(layer, job) for layer in layers for job in jobs]
    results: dict[int, LayerRows] = {}
    with ExitStack() as stack:
        if executor is None and not workers:
            total = len(source) * sum(1 + job.null for _, job in tasks)
            bar = stack.enter_context(tqdm(total=total, unit=" rows", desc="analyze", disable=hidden))
            pending: Iterator[tuple[int, Callable[[], LayerRows]]] = (
                (index, functools.partial(_analyze_layer, source, *task, bar)) for index, task in enumerate(tasks)
            )
        else:
            for metric in {metric for job in jobs for metric in job.metrics if metric.origin}:
                pickle.dumps(metric)  # raises here: an object that cannot be pickled would hang the pool's shutdown
            config = _reopen_args(source)
            bar = stack.enter_context(tqdm(total=len(tasks), unit=" layers", desc="analyze", disable=hidden))
            run = (
                functools.partial(_run_in_processes, workers)
                if executor is None
                else functools.partial(_run_in_executor, executor)
            )
            pending = stack.enter_context(closing(run(config, tasks)))
        for index, result in pending:
            results[index] = _rows_or_failure(result, source, *tasks[index])
            if executor is not None or workers:
                bar.update()
    return [results[index] for index in sorted(results)]  # in order of the layers, not of completion


def _rows_or_failure(result: Callable[[], LayerRows], source: Source, layer: str, job: Job) -> LayerRows:
    """A layer's rows; if its analysis raises, NaN rows with the reason."""
    try:
        return result()
    except UsageError:  # a wrong option concerns all layers
        raise
    except Exception as error:
        if job.strict:
            raise
        mask, _ = job.subset.apply(source.labels, source.split)
        return _failure_rows(source.info[layer], job, len(source) if mask is None else int(mask.sum()), error)


def _failure_rows(info: LayerInfo, job: Job, n: int, error: Exception) -> LayerRows:
    """NaN rows of a layer whose analysis raised."""
    reason = reason_of(error)
    base = layer_columns(info) | {"split": job.subset.split or "", "value": math.nan, "n": n, "note": reason}
    layer_attrs = {"dims": info.dims, "pool": info.pool, "source_shape": info.source_shape}
    return LayerRows([base | {"metric": metric.name} for metric in job.metrics], layer_attrs, reason, error)


def _merged(results: Sequence[LayerRows], job: Job) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]], dict[str, str]]:
    """Rows of all layers, attributes by layer, and reasons of failure by layer."""
    errors = [result.error for result in results if result.error is not None]
    if errors and len(errors) == len(results):  # a failure of all layers is not a property of one
        raise errors[0]
    head_metrics = {metric.name for metric in job.metrics if metric.needs_head or "head" in metric.params}  # few layers fit
    layer_attrs: dict[str, dict[str, Any]] = {}
    failures: dict[str, str] = {}
    for result in results:
        if result.rows:
            layer = result.rows[0]["layer"]
            layer_attrs[layer] = result.layer_attrs
            other_rows = [row for row in result.rows if row["metric"] not in head_metrics]
            undefined = bool(other_rows) and all(math.isnan(row["value"]) for row in other_rows)
            if reason := result.failure or (f"no metric is defined there ({other_rows[0]['note']})" if undefined else ""):
                failures.setdefault(layer, reason)
    return _fill_variants(results), layer_attrs, failures


def _fill_variants(results: Sequence[LayerRows]) -> list[dict[str, Any]]:
    """All rows. A metric that failed at a layer gets a NaN row for every variant that it has at other layers."""
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


def _run_in_executor(executor: Executor, config: Any, tasks: Sequence[Task]) -> Generator[tuple[int, Callable[[], Any]]]:
    """Indices and results of tasks run by an executor, as they are completed.

    Dask retries the tasks of a dead worker, three times by default, and then fails every task that was on such a worker each
    time. Each failed task is submitted once more, alone: most likely another task killed the worker.
    """
    futures = {executor.submit(_analyze_in_worker, config, *task): index for index, task in enumerate(tasks)}
    killed = {}
    for future in _completed(futures):
        if _was_killed(future):
            killed[futures[future]] = future
        else:
            yield futures[future], functools.partial(_result_of, future, tasks[futures[future]][0])
    for index, killed_future in killed.items():
        retry = killed_future
        with suppress(RuntimeError):  # raised if the executor is shut down
            retry = executor.submit(_analyze_in_worker, config, *tasks[index], attempt=2)
        yield index, functools.partial(_result_of, retry, tasks[index][0])


def _was_killed(future: Any) -> bool:
    """Whether dask failed a task because workers died, or lost its result with a worker."""
    try:
        return type(future.exception()).__name__ == "KilledWorker"
    except CancelledError:
        return True
    except AttributeError:
        return False


def _completed(futures: Mapping[Any, int]) -> Iterator[Any]:
    """Futures as they are completed; in order of submission if the executor has its own type of future."""
    try:
        yield from as_completed(futures)
    except (AttributeError, TypeError):
        yield from futures


def _run_in_processes(workers: int, config: Any, tasks: Sequence[Task]) -> Generator[tuple[int, Callable[[], Any]]]:
    """Indices and results of tasks run by local processes.

    If a process dies, Python breaks the whole pool. The tasks that it may have run are the first that are not completed: each
    of these runs again in a process of its own, and then the others in a new pool.
    """
    remaining = dict(enumerate(tasks))
    while remaining:
        yield from _run_in_pool(workers, config, remaining)
        for index in list(remaining)[: workers + 1]:  # workers + 1: a pool queues one task in advance
            task = remaining.pop(index)
            pool = _process_pool(1, workers)
            future = pool.submit(_analyze_in_worker, config, *task)
            pool.shutdown()
            yield index, functools.partial(_result_of, future, task[0])


def _run_in_pool(workers: int, config: Any, remaining: dict[int, Task]) -> Generator[tuple[int, Callable[[], Any]]]:
    """Indices and results of the tasks that a pool completes; completed tasks are removed from `remaining`."""
    pool = _process_pool(workers, workers)
    try:
        with suppress(BrokenExecutor):  # raised by submit if a process has died
            futures = {pool.submit(_analyze_in_worker, config, *task): index for index, task in remaining.items()}
            for future in as_completed(futures):
                if not isinstance(future.exception(), BrokenExecutor):
                    del remaining[futures[future]]
                    yield futures[future], future.result
    finally:
        pool.shutdown(cancel_futures=True)


def _result_of(future: Any, layer: str) -> Any:
    """A future's result; IncompleteError if the process that computed it died."""
    try:
        return future.result()
    except Exception as error:
        if isinstance(error, BrokenExecutor | CancelledError) or type(error).__name__ == "KilledWorker":  # dask's
            raise IncompleteError(
                f"The process that analyzed {layer!r} died whenever it was tried. A script that uses workers must "
                "call `analyze` under `if __name__ == '__main__':`. If it does, the process was killed or ran out of memory: "
                "use fewer workers, a smaller state budget, or fewer layers."
            ) from error
        raise


def _process_pool(count: int, workers: int) -> ProcessPoolExecutor:
    """A pool of `count` processes, each with 1/workers of the cores as BLAS threads."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    return ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_limit_threads, initargs=(threads,))


def _limit_threads(threads: int) -> None:
    """Worker initializer: limits the threads of BLAS, which importing this module has loaded."""
    threadpool_limits(threads)


def _reopen_args(source: Source) -> Any:
    """Arguments of `_reopened`: paths and identities of the files; a source in memory is returned itself, to be pickled."""
    stores = getattr(source, "stores", [source])
    if all(hasattr(store, "path") for store in stores):
        files = tuple((str(Path(store.path).resolve()), store.identity) for store in stores)
        return files, "many" if isinstance(source, Shards) else "one"
    return source


def _analyze_in_worker(config: Any, layer: str, job: Job, *, attempt: int = 1) -> LayerRows:  # noqa: ARG001  # dask takes equal calls for one
    """Rows of one layer, computed in another process."""
    return _analyze_layer(config if isinstance(config, Source) else _reopened(*config), layer, job, None)


@functools.lru_cache(maxsize=1)
def _reopened(files: tuple[tuple[str, Any], ...], kind: str) -> Source:
    """The source that `_reopen_args` describes, opened once per process."""
    paths = [path for path, _ in files]
    source = probes.open(
        paths if kind == "many" else paths[0], partial=True
    )  # the caller has checked whether they are complete
    for store, (_, identity) in zip(getattr(source, "stores", [source]), files, strict=True):
        store.refuse_replaced(identity)
    return source


def _analyze_layer(source: Source, layer: str, job: Job, bar: Any) -> LayerRows:
    """Rows of one layer."""
    mask, labels = job.subset.apply(source.labels, source.split)
    classes = [] if labels is None else np.unique(labels[labels != MISSING]).tolist()
    n = len(source) if mask is None else int(mask.sum())

    def states(labels: NDArray[np.int64] | None, job: Job, targets: NDArray[np.float64] | None = None) -> LayerStates:
        layer_states: LayerStates | None = None
        start = 0
        for batch in source.iter([layer]):
            if layer_states is None:
                d = int(np.prod(batch.layers[layer].shape[1:]))
                job = job.for_layer(d, batch.info[layer].source_shape, batch.info[layer].dims)
                plan = plan_statistics(job.metrics, d, max(1, len(classes)), n, groups=job.groups, budget=job.budget)
                resolution = resolution_of_layer(job.types, batch.info[layer])
                layer_states = LayerStates(batch.info[layer], job, plan, d, classes, resolution=resolution)
            part = slice(start, start + len(batch))
            layer_states.update(batch, None if labels is None else labels[part], None if targets is None else targets[part])
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
    """Rows and attributes of a layer whose states are complete.

    Raises
    ------
    DataError
        With strict, if a statistic exceeded the budget.
    """
    if states.failure and states.job.strict:
        raise DataError(f"Layer {states.info.name!r} can't be analyzed: {states.failure}.")
    return LayerRows(rows, states.layer_attrs, states.failure)


def _permuted_rows(states: Any, source: Source, job: Job, draw: int, mask: Any) -> dict[tuple[Metric, str], float]:
    """Values under permuted labels and targets; only those of samples in the subset that have them are permuted."""
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
    """A row per metric and variant: its null distribution under permuted labels, and p."""
    keys = {(metric.name, variant): (metric, variant) for metric, variant in draws[0]}
    null_rows = []
    for row in rows:
        if (key := keys.get((row["metric"], row["variant"]))) is None:
            continue
        metric, variant = key
        values = [draw[key] for draw in draws]
        null = permutation_test(row["value"], values, metric.tail(variant), dimensionless="scaling" in metric.invariant)
        null_rows.append({
            **row, "perturbation": "label permutation", "strength": float(len(draws)), "value": null.mean, "se": null.sd,
            "p": null.p, "tail": null.tail, "note": null.note,
        })  # fmt: skip
    return null_rows


def _analyze_stream(batches: Iterable[Batch], job: Job, *, hidden: bool | None) -> list[LayerRows]:
    """Rows of every layer of a stream of batches, read once."""
    with tqdm(unit=" rows", desc="analyze", disable=hidden) as bar:
        return [_rows_of_states(layer) for layer in list(_stream_states(batches, job, bar))]


def _rows_of_states(states: LayerStates) -> LayerRows:
    """Rows of a stream's layer; if a metric raises, NaN rows with the reason."""
    try:
        return _layer_rows(states, list(states.rows()))
    except UsageError:
        raise
    except Exception as error:
        if states.job.strict:
            raise
        return _failure_rows(states.info, states.job, states.n, error)


def _with_head(metrics: MetricLike | Iterable[MetricLike] | None, head: tuple[Any, ...] | None) -> list[Metric]:
    """The metrics of `_parse_metrics`, with the network's head bound to those that need it."""
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


def _recorded_head(source: Source | Iterable[Batch], ignored: tuple[int, ...]) -> Head | None:
    """The file's head with a row for each class of its labels, or a `Head` with the reason why there is none."""
    if not isinstance(source, Source) or source.head is None or (labels := source.labels) is None or not len(labels):
        return None
    return by_class(source.head, source.attrs, source.class_names, labels[~Subset(ignore=ignored).missing(labels)])


def _parse_metrics(metrics: MetricLike | Iterable[MetricLike] | None) -> list[Metric]:
    """The metrics that the caller named, by name, as `Metric`, or by their functions; by default all."""
    if metrics is None:
        return [get(name) for name in names()]
    items = metrics if isinstance(metrics, Iterable) and not isinstance(metrics, str) else [metrics]
    parsed = []
    for item in items:
        parsed += parse(item) if isinstance(item, str) else [item if isinstance(item, Metric) else metric_of(item)]
    return parsed or [get("")]


def _opened(source: SourceLike, *, partial: bool) -> Source | Iterable[Batch]:
    if isinstance(source, str | PathLike):
        return probes.open(source, partial=partial)
    if isinstance(source, list | tuple) and source and all(isinstance(item, str | PathLike) for item in source):
        return probes.open(source, partial=partial)
    return source  # type: ignore[return-value]  # only stores and batches remain


def _relabelled(source: Source | Iterable[Batch], labels: Any, targets: Any, ignored: tuple[int, ...]) -> Any:
    """The source with the caller's labels and targets in place of its own."""
    if labels is None and targets is None:
        return source
    if not isinstance(source, Source):
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


def _default_run_name(source: Source) -> str:
    """The stem of the file, or the name of the folder of shards."""
    return Path(source.stores[0].path).resolve().parent.name if isinstance(source, Shards) else Path(source.name).stem


def _select_layers(batches: Iterable[Batch], patterns: Patterns) -> Iterator[Batch]:
    """Batches with only the layers that match the patterns."""
    for batch in batches:
        selected = select(patterns, batch.info, "the batches")
        layers = {name: batch.layers[name] for name in selected}
        yield replace(batch, layers=layers, info={name: batch.info[name] for name in selected})


def _require_classes(metrics: Sequence[Metric], labels: NDArray[np.int64] | None) -> None:
    """Raise DataError if a metric needs labels, or more classes, than the samples have."""
    classes = None if labels is None else np.unique(labels[labels != MISSING])
    k = 0 if classes is None else len(classes)
    unmet = [metric.name for metric in metrics if metric.min_classes > k]
    if not unmet:
        return
    rest = [metric.name for metric in metrics if metric.min_classes <= k]
    instead = f" Choose metrics that do without: {', '.join(rest)}." if rest else ""
    if classes is None or not len(classes):
        missing = "have no labels" if classes is None else "have only labels that mean none (-1, -100)"
        raise DataError(
            f"The activations {missing}; needed by {', '.join(unmet)}. Give labels with --labels FILE (labels=).{instead}"
        )
    more = "" if labels is None or len(labels) < 2 or (labels != MISSING).all() else " (-1 means that a sample has none)"
    raise DataError(f"All samples are of one class ({classes[0]}){more}, and {', '.join(unmet)} compare classes.{instead}")


def _stream_states(batches: Iterable[Batch], job: Job, bar: Any) -> Iterator[LayerStates]:
    """The final states of every layer of a stream of batches, in order of execution."""
    layers: dict[str, LayerStates] = {}
    first: Mapping[str, Any] | None = None
    for batch in batches:
        if first is None:
            first = batch.info
            job = _drop_unanswerable(job, "the batches", labels=batch.labels is not None, targets=batch.targets is not None)
            if batch.labels is None:
                _require_classes(job.metrics, None)
            job = job.with_target_names(batch.target_names)
            classes = [] if batch.labels is None else np.unique(batch.labels[~job.subset.missing(batch.labels)]).tolist()
            types = first_layer_of_dtypes(batch.info.values())
            for name, info in batch.info.items():
                d = int(np.prod(batch.layers[name].shape[1:]))
                budget = job.budget // len(batch.info)
                layer_job = job.for_layer(d, info.source_shape, info.dims)
                plan = plan_statistics(layer_job.metrics, d, max(1, len(classes)), None, groups=layer_job.groups, budget=budget)
                resolution = resolution_of_layer(types, info)
                layers[name] = LayerStates(info, layer_job, plan, d, classes, resolution=resolution)
        elif list(batch.info) != list(first):
            changed = sorted(set(first) ^ set(batch.info))
            if not set(changed) <= set(batch.skipped):
                raise DataError(f"The batches do not all hold the same layers ({', '.join(changed[:3])}).")
            for name in changed:
                reasons = dict.fromkeys((metric.needs for metric in job.metrics), batch.skipped[name])
                layers[name] = LayerStates(layers[name].info, job, StatisticsPlan((), reasons), layers[name].d)
            first = batch.info
        for name in batch.info:
            layers[name].update(batch)
            bar.update(len(batch))
    for layer in layers.values():
        if layer.labelled or layer.n:
            seen = sorted(layer.seen_classes) + [MISSING] * (layer.n_labelled < layer.n)
            _require_classes(job.metrics, np.array(seen, np.int64) if layer.labelled else None)
        yield layer


def _provenance(
    source: Source | Iterable[Batch],
    metrics: Sequence[Metric],
    layers: Mapping[str, Mapping[str, Any]],
    recorded: Mapping[str, Any],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """How the numbers were obtained, as JSON can hold it."""
    stored = source if isinstance(source, Source) else None
    return {
        "source": stored.name if stored else "batches in memory",
        "recorded": {key: value for key, value in (stored.attrs if stored else recorded).items() if key != "left_out"},
        "layers": {name: {key: _plain(value) for key, value in facts.items()} for name, facts in layers.items()},
        "metrics": {metric.name: {key: _plain(value) for key, value in metric.parameters.items()} for metric in metrics},
        **({"code": code} if (code := {metric.name: metric.origin for metric in metrics if metric.origin}) else {}),
        **options,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Head):
        return f"weights of shape {value.weight.shape}"
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple | list | set) else value

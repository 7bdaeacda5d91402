"""Recording to a file: `record` writes the batches of `capture` in a background thread, and can be resumed.

A resumed run continues from the file's last commit. Commits lie between steps, so the remaining steps get the same batches as
in an uninterrupted run, and the file becomes the same.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from probes.atomic_files import plain_file
from probes.batch import Batch
from probes.capturing.keywords import options_of
from probes.capturing.network import final_linear, unwrap, weights_sha256
from probes.capturing.steps import captured, device_of
from probes.errors import DataError, IncompleteError, NonFiniteWarning, UsageError
from probes.ids import SeenIds, are_texts
from probes.loading.loaders import as_loader
from probes.loading.numbering import Identified, identified, ids_at, in_fixed_order
from probes.loading.reader import Reader
from probes.options import CaptureKeywords, CaptureOptions, CompressionOption, OverwriteOption, ResumeOption, shows_options
from probes.provenance import versions
from probes.storage.journal import Journal, install
from probes.storage.seal import is_empty, is_interrupted
from probes.storage.store import Store
from probes.storage.writer import Writer, check_target, create, part_path, provenance_diff, refuse_mismatches
from probes.storage.writer import resume as resume_file

__all__ = ["record"]


@shows_options(CaptureKeywords)
def record(
    model: nn.Module,
    loader: Iterable[Any] | Dataset[Any],
    path: str | PathLike[str],
    *,
    device: torch.device | str | None = None,
    early_stop: bool = True,
    forward: Callable[..., Any] | None = None,
    attrs: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    compression: CompressionOption = "none",
    overwrite: OverwriteOption = False,
    resume: ResumeOption = False,
    progress: bool | None = None,
    **options: Unpack[CaptureKeywords],
) -> Store:
    """Run `model` over `loader` and write the outputs of its layers to an activations file, batch by batch.

    Parameters
    ----------
    model, loader, device, early_stop, forward
        As for `capture`.
    path : path-like
        File to write, such as `"acts.h5"`.
    attrs : mapping, optional
        Provenance to store: model, weights_sha256, preprocessing, dataset, command, versions.
    class_names : sequence of str, optional
        Name of class 0, 1, ...; text labels are numbered by it.
    compression : {"none", "lzf", "gzip", "lz4", "zstd"}, default "none"
        Compression of the file.
    overwrite : bool, default False
        Replace an existing file. It stays unchanged until the new one, which is written to `FILE.part`, is complete.
    resume : bool, default False
        Continue an incomplete file. The loader must yield the same samples in the same order as before; samples that are in
        the file are skipped. An incomplete replacement `FILE.part` is continued if this run began it. A complete file is left
        unchanged if it has every sample of the data set. If there is no file, writing starts.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.
    **options
        What is recorded, and how the network is run, as for `capture`: see `probes.CaptureOptions`.

    Returns
    -------
    Store
        The file, for reading.

    Raises
    ------
    UsageError
        If `path` exists and neither `overwrite` nor `resume` is given; if the file to resume has another model, other
        weights, data, layers or pools, or another `forward`; if another process is writing the file; if `attrs` contain one of
        the options with another value.
    DataError
        If the loader yields nothing, or other samples than those in the file.
    IncompleteError
        If the file to resume is complete, but the data set has samples that are not in it.
    OSError
        If the disk is full. The file is then at its last commit.

    Notes
    -----
    If the run is stopped, `resume` can continue the file, and `probes.open(path, partial=True)` can read it. A thread
    of its own writes, with at most 64 MB queued.
    """
    path = Path(path)
    network = unwrap(model)
    capture_options, source = options_of(forward, **options), loader
    if (loader := as_loader(loader, capture_options.batch_size)) is source:
        size = getattr(loader, "batch_size", None)
        capture_options = replace(capture_options, batch_size=size if isinstance(size, int) else 0)
    run_attrs = _run_attrs(network, capture_options, str(device or device_of(network)), attrs or {})
    plain_file(path)
    resumable = _find_resumable(path, run_attrs, class_names) if resume else None
    if resumable is None and not resume:
        check_target(path, overwrite=overwrite)
    if resumable is not None and not is_interrupted(resumable):
        return _complete(resumable, path, loader, capture_options)
    n_resumed = 0 if resumable is None or is_empty(resumable) else len(Store(resumable, partial=True))
    rest = loader
    if resumable is not None and n_resumed:
        rest = _remaining_batches(loader, n_resumed, resumable, Reader(forward or network, class_names=class_names))
    batches = captured(
        model, rest, _remaining(capture_options, n_resumed), device=device, early_stop=early_stop, forward=forward,
        class_names=class_names,
    )  # fmt: skip
    first = next(batches, None)
    if first is None and not n_resumed:
        raise DataError("The loader gave no batch; there is nothing to record.")
    expected = capture_options.n_of(_length(loader))
    if n_resumed:
        writer = resume_file(path, attrs=run_attrs, expected=expected, source=resumable)
    else:
        writer = create(
            path, attrs=run_attrs | _origin(first), class_names=class_names, head=final_linear(network),
            compression=compression, expected=expected, overwrite=overwrite or resumable is not None,
        )  # fmt: skip
    return _write(writer, batches if first is None else chain([first], batches), n_resumed, expected, progress=progress)


def _write(writer: Writer, batches: Iterable[Batch], n_resumed: int, expected: int | None, *, progress: bool | None) -> Store:
    """Write batches with a progress bar; warns of values that are not finite."""
    hidden = None if progress is None else not progress
    try:
        with writer, tqdm(total=expected, initial=n_resumed, unit=" samples", disable=hidden, desc=writer.path.name) as bar:
            for batch in batches:
                writer.put(batch)
                bar.update(len(batch))
    except BaseException as error:
        error.add_note(_state_note(writer))
        raise
    store = Store(writer.path)
    if store.non_finite:
        warnings.warn(_non_finite(store.non_finite), NonFiniteWarning, stacklevel=3)
    return store


def _run_attrs(network: nn.Module, options: CaptureOptions, device: str, attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a file: those of the caller, the options, and the network's name and hash."""
    stated = options.to_attrs()
    for key in stated.keys() & attrs.keys():
        if attrs[key] != stated[key]:
            raise UsageError(
                f"attrs say {key} = {attrs[key]!r}, and the run has {key} = {stated[key]!r}: the file can hold one of them. "
                f"Give what you want to keep another name."
            )
    run_attrs = {"model": type(network).__name__, "weights_sha256": weights_sha256(network), **stated}
    return run_attrs | {"device": device, "versions": versions()} | dict(attrs)


def _find_resumable(path: Path, run_attrs: Mapping[str, Any], class_names: Sequence[str] | None) -> Path | None:
    """The file to continue: the replacement of `path` or `path` itself, whichever this run began; None if neither exists."""
    refusal: UsageError | None = None
    for resumable in (part_path(path), path):
        if not resumable.exists():
            continue
        if is_interrupted(resumable) and is_empty(resumable):  # without a commit there is nothing that could differ
            return resumable
        with Store(resumable, partial=True) as store:
            mismatches = provenance_diff(store.attrs, run_attrs) + (_other_classes(store, class_names) if len(store) else [])
        if not mismatches:
            return resumable
        try:
            refuse_mismatches(resumable, mismatches)
        except UsageError as error:
            refusal = refusal or error
    if refusal is not None:
        raise refusal
    return None


def _complete(resumable: Path, path: Path, loader: Any, options: CaptureOptions) -> Store:
    """The store of a complete file, which is first renamed to `path`; raises if the data set has samples that it lacks."""
    if resumable != path:
        install(resumable, path)
    Journal.beside(path).unlink(missing_ok=True)  # left by a run that was killed after the seal
    store = Store(path)
    current = ids_at(loader.dataset, range(options.n_of(len(loader.dataset)) or 0)) if in_fixed_order(loader) else None
    if current is None or current[1] != store.attrs.get("ids_from"):
        return store
    present = set(store.ids.tolist())
    if new := [sample for sample in current[0].tolist() if sample not in present]:
        raise IncompleteError(
            f"{path} is complete, but {len(new)} of the {len(current[0])} samples that there are now are not in it ({new[0]!r} "
            f"first): they came after it was written. Extract them to another file, or write this one anew (--overwrite)."
        )
    return store


def _origin(first: Batch | None) -> dict[str, str]:
    """The attribute that says where the ids come from."""
    return {} if first is None else {"ids_from": first.ids_from}


def _state_note(writer: Writer) -> str:
    """The note on the state of the file after an error."""
    if writer.complete:
        return f"{writer.path} is complete: {writer.n_committed} samples are whole in it"
    old = "" if writer.file == writer.path else f"; {writer.path} is as it was"
    return (
        f"{writer.n_committed} samples are whole in {writer.file}; go on with resume=True (--resume), or read them with "
        f"probes.open({str(writer.file)!r}, partial=True){old}"
    )


def _other_classes(store: Store, class_names: Sequence[str] | None) -> list[str]:
    """The mismatch, if the classes are numbered differently than in the file, so that one label would mean two classes."""
    now, before = None if class_names is None else list(class_names), store.class_names
    if now == before:
        return []
    shown = ["none" if names is None else ", ".join(names[:4]) + ", ..." * (len(names) > 4) for names in (before, now)]
    return [f"the classes: {shown[0]} in the file, {shown[1]} now"]


def _remaining_batches(loader: Iterable[Any], n_resumed: int, path: Path, reader: Reader) -> Iterator[Identified]:
    """The loader's batches after the samples that are in the file; raises DataError if those samples differ."""
    with Store(path, partial=True) as store:
        existing, labels, origin = store.ids, store.labels, store.attrs.get("ids_from")
    seen = SeenIds()
    seen.add(existing)
    done, positions, rest = _unread(loader, n_resumed)
    same = positions is None or positions[1] != origin or np.array_equal(positions[0], existing[:done])
    for value in identified(rest, reader, first=done) if same and done <= n_resumed else ():
        if done == n_resumed:
            if are_texts(value.ids) != are_texts(existing):
                kinds = ("names", "numbers") if are_texts(existing) else ("numbers, as in older files", "names")
                raise DataError(
                    f"The samples in {path} have {kinds[0]}, those of the loader {kinds[1]}: write the file anew (--overwrite)."
                )
            if (repeated := seen.add(value.ids)) is not None:
                raise DataError(f"The loader repeats sample id {repeated!r}, which is in {path} already; ids must be unique.")
            yield value
            continue
        rows = slice(done, done + len(value.ids))
        same = np.array_equal(value.ids, existing[rows])
        if labels is not None and value.item.labels is not None:  # other labels mean other samples or another annotation
            same &= np.array_equal(value.item.labels, labels[rows])
        done += len(value.ids)
        if done > n_resumed or not same:
            break
    if done != n_resumed or not same:
        raise DataError(
            f"The loader gives other samples than those in {path}, before row {done}: it must give the same ones, in the "
            f"same order and batches, to go on with the file."
        )


def _unread(loader: Any, n_resumed: int) -> tuple[int, tuple[NDArray[Any], str] | None, Iterable[Any]]:
    """Number of samples that are skipped without loading them, their ids if these are positions, and a loader for the rest.

    Only a torch DataLoader in fixed order can skip samples without loading them.
    """
    from torch.utils.data import BatchSampler, DataLoader

    if not in_fixed_order(loader) or type(loader.batch_sampler) is not BatchSampler:
        return 0, None, loader
    batches = list(loader.batch_sampler)
    done = count = 0
    while count < len(batches) and done < n_resumed:
        done += len(batches[count])
        count += 1
    rest = DataLoader(
        loader.dataset, batch_sampler=batches[count:], num_workers=loader.num_workers, collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory, timeout=loader.timeout, worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context, generator=loader.generator,
    )  # fmt: skip
    return done, ids_at(loader.dataset, range(done)), rest


def _remaining(options: CaptureOptions, n_resumed: int) -> CaptureOptions:
    """The options for the batches that are not in the file yet."""
    if options.max_batches is None or not n_resumed:
        return options
    if not options.batch_size:
        raise UsageError("How many batches are left of max_batches is not known: the loader does not say its batch size.")
    return replace(options, max_batches=max(0, options.max_batches - -(-n_resumed // options.batch_size)))


def _non_finite(counts: Mapping[str, int]) -> str:
    """The warning about layers with NaN or infinite values."""
    shown = ", ".join(f"{name}: {count}" for name, count in list(counts.items())[:3])
    more = f", and {len(counts) - 3} more layers" if len(counts) > 3 else ""
    return (
        f"NaN or infinite values were recorded ({shown}{more}): the network made them, or they are too large for the type "
        f"that is kept. --dtype float32, or --precision float32, may help."
    )


def _length(loader: Iterable[Any]) -> int | None:
    """Number of samples, or None if the loader does not know it."""
    try:
        return len(loader.dataset)  # type: ignore[attr-defined]  # a torch DataLoader
    except (AttributeError, TypeError):
        return None

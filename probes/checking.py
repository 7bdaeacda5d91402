"""Integrity of files: `doctor` reports whether a file is intact, with advice.

It reads every byte. Whether a network still gives the numbers in a file is the question of `comparing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from tqdm.auto import tqdm

from probes.errors import DataError, FormatError, IncompleteError, ReportedError, UsageError
from probes.features.opening import ENDINGS, is_recording, open_features
from probes.ids import refuse_duplicates
from probes.storage.journal import Journal
from probes.storage.seal import check_bytes, is_empty, is_interrupted
from probes.storage.shards import Shards
from probes.storage.store import Store

__all__ = ["FileStatus", "doctor"]


@dataclass(frozen=True)
class FileStatus:
    """Result of `doctor` for one file.

    Attributes
    ----------
    path : pathlib.Path
        The file, or the folder.
    state : {"whole", "features", "resumable", "empty", "busy", "damaged", "foreign", "missing"}
        State; "features" is a readable file of features or an export.
    what : str
        One sentence on the state.
    advice : str
        One sentence of advice; may be empty.
    """

    path: Path
    state: str
    what: str
    advice: str = ""

    @property
    def ok(self) -> bool:
        """Whether the file is intact, or readable features."""
        return self.state in ("whole", "features")


def doctor(path: str | PathLike[str], *, progress: bool | None = None) -> list[FileStatus]:
    """Read every byte of a file, or of the shards in a folder, and report its state with advice.

    Parameters
    ----------
    path : path-like
        A file, or a folder of shards.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.

    Returns
    -------
    list of FileStatus
        One per file; for a folder, the last one is on the set of shards.

    Raises
    ------
    FileNotFoundError
        If there is nothing at `path`.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    if not path.is_dir():
        ours = ENDINGS.get(path.suffix.lower(), "hdf5") == "hdf5" and is_recording(path)
        return [_examine(path, progress=progress) if ours else _examine_features(path, progress=progress)]
    files = sorted(path.glob("*.h5"))
    findings = [_examine(file, progress=progress) for file in files]
    if not files:
        return [FileStatus(path, "missing", "the folder holds no *.h5 file", "Extract into it.")]
    if all(finding.state == "whole" for finding in findings):
        findings.append(_together(path, files))
    return findings


def _together(path: Path, files: list[Path]) -> FileStatus:
    try:
        with Shards([Store(file) for file in files]) as shards:
            return FileStatus(path, "whole", f"{len(files)} shards fit together: {len(shards)} samples, none twice")
    except IncompleteError as error:
        return FileStatus(path, "missing", str(error), "Extract again with --resume, by as many processes as before.")
    except ReportedError as error:
        return FileStatus(path, "foreign", str(error), "Keep the shards of one run in a folder of their own.")


def _examine(path: Path, *, progress: bool | None) -> FileStatus:
    if is_empty(path) and is_interrupted(path):
        return FileStatus(path, "empty", "writing stopped before anything was committed", "Extract it again, with --resume.")
    try:
        with Store(path, partial=True) as store:
            refuse_duplicates(store.ids, str(path))
            broken = _broken_layers(store, progress=progress)
            if not broken:
                store.check()
                check_bytes(path)
            n, state = len(store), "whole" if store.complete else "resumable"
            non_finite = store.non_finite
    except (UsageError, DataError) as error:
        busy = isinstance(error, UsageError)
        advice = "Wait until it is written." if busy else "Extract it again: which of the rows is the sample's is not known."
        return FileStatus(path, "busy" if busy else "damaged", str(error), advice)
    except FormatError as error:
        foreign = "no HDF5 file" in str(error) or "not an activations file" in str(error)
        journal = Journal.beside(path)
        advice = (
            "It is not ours: leave it alone." if foreign else "Copy it again from where it was written, or extract it again."
        )
        if not foreign and not journal.exists():
            advice += f" If it is a copy of a file that was not finished, copy {journal.name} as well."
        what = str(error).partition(" Copy it again")[0].rstrip(".")
        return FileStatus(path, "foreign" if foreign else "damaged", what, advice)
    if broken:
        names = ", ".join(broken[:5]) + (f" and {len(broken) - 5} more" if len(broken) > 5 else "")
        return FileStatus(
            path, "damaged", f"{len(broken)} of {len(store.info)} layers can't be read ({names}); the others are whole",
            "Copy it again from where it was written, or extract it again; the other layers can be used.",
        )  # fmt: skip
    what = f"{n} samples, {len(store.info)} layers, every byte as it was written"
    if non_finite:
        what += f"; {sum(non_finite.values())} values are NaN or infinite, in {', '.join(list(non_finite)[:3])}"
    if state == "whole":
        return FileStatus(path, "whole", what)
    return FileStatus(path, "resumable", f"writing stopped; {n} samples are whole", "Go on with the same command and --resume.")


def _examine_features(path: Path, *, progress: bool | None) -> FileStatus:
    """Read every number of a file of features."""
    hidden = None if progress is None else not progress
    try:
        with open_features(path, quiet=True) as source:
            for name in tqdm(source.layers, desc=path.name, unit=" layers", disable=hidden):
                for _ in source.iter([name]):
                    pass
            what = f"{len(source)} samples, {len(source.layers)} layers of features ({source.attrs['kind']}) can be read"
            return FileStatus(path, "features", f"{what}; such files have no checksums that say whether they are as written")
    except ReportedError as error:
        return FileStatus(path, "foreign", str(error).rstrip("."), "Leave it alone, or save arrays as docs/inputs.md says.")


def _broken_layers(store: Store, *, progress: bool | None) -> list[str]:
    """Layers with unreadable rows."""
    broken = []
    hidden = None if progress is None else not progress
    for name in tqdm(store.layers, desc=store.path.name, unit=" layers", disable=hidden):
        try:
            for _ in store.iter([name]):
                pass
        except FormatError:
            broken.append(name)
    return broken

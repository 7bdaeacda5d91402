"""`"imagefolder:DIR"` -> labelled images with ids that do not depend on the order of reading.

Specifications: `digits` (scikit-learn's handwritten digits, with splits train and test of half each), `imagefolder:DIR`
(a folder of class folders, or a .tar, .tar.gz of one), `npz:FILE` (arrays x and y, or x_train, y_train, x_test, ...;
`npz:FILE,integers=tokens` keeps integers, `integers=numbers` makes them float32), `torchvision:NAME,root=DIR` (a downloaded
data set of torchvision, such as CIFAR10; the root is `data` by default, and nothing is downloaded),
`gaussians:K=10,d=64,sparsity=1` (vectors of a mixture of Gaussians, with the parameters of `theory.mixtures`), and
`scale-detection:task=1,dimensions=1` (two points in an image, with the parameters of `theory.scale_detection`, and `train=` and
`seed=` of the splits train, validation and test).
"""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from probes.errors import UsageError, did_you_mean
from probes.labels import as_labels
from repanalysis.inputs.arrays import npz
from repanalysis.inputs.images import imagefolder
from repanalysis.inputs.labels import aligned, label_file
from repanalysis.inputs.samples import Data, Transform
from repanalysis.inputs.synthetic import digits, gaussians, scale_detection
from repanalysis.inputs.torchvision_sets import torchvision_set

__all__ = ["Data", "labelled", "load_data"]

_SCHEMES = ("digits", "imagefolder", "npz", "torchvision", "gaussians", "scale-detection")
_ALONE = ("digits", "gaussians", "scale-detection")  # schemes that need no name after the colon


def load_data(
    spec: str,
    *,
    split: str | None = None,
    transform: Transform | None = None,
    colours: int = 3,
    tokens: bool = False,
    labels: str | None = None,
    targets: str | None = None,
    ignore_labels: Collection[int] = (),
) -> Data:
    """Open the data that a specification names.

    Parameters
    ----------
    spec : str
        `digits`, `imagefolder:DIR`, `npz:FILE`, `torchvision:NAME,root=DIR`, `gaussians:...` or `scale-detection:...`.
    split : str, optional
        The split: a folder below DIR, the ending of the names of arrays, "train" or "test" for others.
    transform : callable, optional
        From a PIL image to a tensor, such as a model's; by default pixels in [0, 1].
    colours : int, default 3
        Channels of the images that the transform gets: 3 for RGB, 1 for grey.
    tokens : bool, default False
        Whether the network takes token ids: integers of an npz file then stay integers. Otherwise 8-bit images (n, H, W),
        (n, H, W, C), (n, C, H, W) and clips (n, C, T, H, W), (n, T, H, W, C), (n, T, C, H, W) of 1, 3 or 4 colours are scaled
        to [0, 1], and other integers become float32, with a warning unless the specification says `integers=numbers`.
    labels : str, optional
        `FILE` or `FILE:COLUMN` of the labels, in place of those of the data; see `repanalysis.inputs.labels`.
    targets : str, optional
        `FILE`, `FILE:COLUMN` or `FILE:A,B` of continuous targets.
    ignore_labels : collection of int, optional
        Labels that mean a missing label, in addition to -1 and -100.

    Returns
    -------
    Data
        A torch data set.

    Raises
    ------
    UsageError
        If the specification or the split is unknown.
    FileNotFoundError, FormatError, DataError
        If the files don't exist, can't be read, or contain no image.
    """
    data = _opened(spec, split, transform, colours, tokens=tokens, ignore=None if labels else ignore_labels)
    return labelled(data, labels, targets, ignore_labels)


def labelled(data: Data, labels: str | None, targets: str | None, ignore: Collection[int] = ()) -> Data:
    """Data with labels and targets from files."""
    for text, continuous in ((labels, False), (targets, True)):
        if text is None:
            continue
        annotations, how = aligned(label_file(text), data.ids, data.spec, ignore=ignore, continuous=continuous)
        if annotations.note:
            warnings.warn(annotations.note, stacklevel=3)
        if not continuous:
            data = replace(data, labels=annotations.labels, class_names=annotations.class_names, labels_from="")
        if annotations.targets is not None:
            data = replace(data, targets=annotations.targets, target_names=annotations.target_names)
        data = replace(data, labels_from="; ".join(filter(None, [data.labels_from, how])))
    if data.labels is not None and ignore:
        data = replace(data, labels=as_labels(data.labels, ignore=ignore))
    return data


def _opened(
    spec: str, split: str | None, transform: Transform | None, colours: int, *, tokens: bool, ignore: Collection[int] | None
) -> Data:
    """The data with their own labels; without labels if `ignore` is None."""
    scheme, _, path = spec.partition(":")
    if scheme not in _SCHEMES or not (path or scheme in _ALONE):
        forms = "Write digits, imagefolder:DIR, npz:FILE, torchvision:NAME, gaussians:K=10,d=64 or scale-detection:task=1."
        raise UsageError(f"Unknown data {spec!r}.{did_you_mean(scheme, _SCHEMES)} {forms}")
    if scheme == "digits":
        return digits(spec, split, transform, colours)
    if scheme == "gaussians":
        return gaussians(spec, path, split)
    if scheme == "scale-detection":
        return scale_detection(spec, path, split)
    if scheme == "npz":
        return npz(spec, path, split, transform, colours, tokens=tokens, ignore=ignore)
    if scheme == "torchvision":
        return torchvision_set(spec, path, split, transform, colours)
    return imagefolder(spec, Path(path), split, transform, colours, labels=ignore is not None)

"""`"imagefolder:DIR"` -> labelled images with ids that do not depend on the order in which they are read.

Specifications: `digits` (scikit-learn's handwritten digits, with splits train and test of half each), `imagefolder:DIR`
(a folder of class folders, or a .tar, .tar.gz of one), `npz:FILE` (arrays x and y, or x_train, y_train, x_test, ...;
`npz:FILE,integers=tokens` keeps integers, `integers=numbers` makes them float32), `torchvision:NAME,root=DIR` (a data set of
torchvision that lies there, such as CIFAR10; the root is `data` by default, and nothing is downloaded),
`gaussians:K=10,d=64,sparsity=1` (vectors of a mixture of Gaussians, with the parameters of `theory.mixtures`), and
`scale-detection:task=1,dimensions=1` (two points in an image, with the parameters of `theory.scale_detection`, and `train=` and
`seed=` of the splits train, validation and test).
"""

from __future__ import annotations

from pathlib import Path

from probes.errors import UsageError, did_you_mean
from repanalysis.inputs.arrays import npz
from repanalysis.inputs.images import imagefolder
from repanalysis.inputs.samples import Data, Transform
from repanalysis.inputs.synthetic import digits, gaussians, scale_detection
from repanalysis.inputs.torchvision_sets import torchvision_set

__all__ = ["Data", "load_data"]

_SCHEMES = ("digits", "imagefolder", "npz", "torchvision", "gaussians", "scale-detection")
_ALONE = ("digits", "gaussians", "scale-detection")  # need nothing behind the colon


def load_data(
    spec: str, *, split: str | None = None, transform: Transform | None = None, colours: int = 3, tokens: bool = False
) -> Data:
    """Open the data that a specification names.

    Parameters
    ----------
    spec : str
        `digits`, `imagefolder:DIR`, `npz:FILE`, `torchvision:NAME,root=DIR`, `gaussians:...` or `scale-detection:...`.
    split : str, optional
        Which split: a folder below DIR, the ending of the array names, "train" or "test" of the others.
    transform : callable, optional
        From a PIL image to a tensor, such as a model's; by default pixels in [0, 1].
    colours : int, default 3
        What images are turned into for the transform: 3 for RGB, 1 for grey.
    tokens : bool, default False
        Whether the network takes token ids: integers of an npz file then stay integers. Otherwise 8-bit images (n, H, W),
        (n, H, W, C), (n, C, H, W) and clips (n, C, T, H, W), (n, T, H, W, C), (n, T, C, H, W) of 1, 3 or 4 colours are scaled
        to [0, 1], and other integers become float32, with a warning unless the specification says `integers=numbers`.

    Returns
    -------
    Data
        A torch data set.

    Raises
    ------
    UsageError
        If the specification or the split is unknown.
    FileNotFoundError, FormatError, DataError
        If the files are not there, can't be read, or hold no image.
    """
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
        return npz(spec, path, split, transform, colours, tokens=tokens)
    if scheme == "torchvision":
        return torchvision_set(spec, path, split, transform, colours)
    return imagefolder(spec, Path(path), split, transform, colours)

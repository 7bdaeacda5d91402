"""Class names of the rows of a pretrained network's last layer.

timm's networks have their class names or name the subset of ImageNet that they were trained on; torchvision's weights list
their categories; Hugging Face's configurations have `id2label`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from probes.errors import FormatError

__all__ = ["head_names", "names_in"]

Names = list[list[str]]


def head_names(spec: str, module: Any, rows: int) -> Names:
    """Names of every row, each a list of synonyms; empty if they are unknown.

    Parameters
    ----------
    spec : str
        The network, such as `timm:resnet18`.
    module : torch.nn.Module
        The network itself.
    rows : int
        Rows of its head.
    """
    scheme, _, name = spec.partition(":")
    find = {"timm": _of_timm, "torchvision": _of_torchvision, "hf": _of_hf}.get(scheme)
    names = [] if find is None else find(name, module)
    return names if len(names) == rows else []


def names_in(path: Path) -> Names:
    """Names in a file, one line per row of the head, with tabs between synonyms.

    Raises
    ------
    FileNotFoundError, FormatError
        If there is no such file, it is not text, or a line is empty.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        lines = path.read_text(encoding="utf-8").rstrip().splitlines()
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is not text in UTF-8 ({error}).") from error
    if empty := [number for number, line in enumerate(lines, 1) if not line.strip()]:
        raise FormatError(f"Line {empty[0]} of {path} is empty; every row of the head needs a name.")
    return [[part.strip() for part in line.split("\t")] for line in lines]


def _of_timm(name: str, module: Any) -> Names:  # noqa: ARG001  # all have one signature
    from timm.data import ImageNetInfo, infer_imagenet_subset

    own = getattr(module, "pretrained_cfg", None) or {}
    if (names := own.get("label_names")) is not None:
        described = own.get("label_descriptions") or {}
        return [[str(synset), *_spellings(str(described.get(synset, "")))] for synset in names]
    subset = infer_imagenet_subset(module)
    if subset is None:
        return []
    info = ImageNetInfo(subset)
    return [[key, *_spellings(words)] for key, words in zip(info.label_names(), info.label_descriptions(), strict=True)]


def _of_torchvision(name: str, module: Any) -> Names:  # noqa: ARG001
    from timm.data import ImageNetInfo
    from torchvision import models

    categories: Sequence[str] = models.get_model_weights(name).DEFAULT.meta.get("categories") or ()
    if len(categories) != 1000:
        return [_spellings(words) for words in categories]
    info = ImageNetInfo("imagenet-1k")  # torchvision's order is that of the WordNet ids, too
    return [
        [key, *_spellings(words), *_spellings(own)]
        for key, words, own in zip(info.label_names(), info.label_descriptions(), categories, strict=True)
    ]


def _of_hf(name: str, module: Any) -> Names:  # noqa: ARG001
    labels = dict(getattr(getattr(module, "config", None), "id2label", None) or {})
    names = [str(labels.get(row, labels.get(str(row), ""))) for row in range(len(labels))]
    return [] if any(own in ("", f"LABEL_{row}") for row, own in enumerate(names)) else [_spellings(own) for own in names]


def _spellings(words: str) -> list[str]:
    """A description, and each of the names in it.

    Examples
    --------
    >>> _spellings("tench, Tinca tinca")
    ['tench, Tinca tinca', 'tench', 'Tinca tinca']
    """
    parts = [part.strip() for part in words.split(",")]
    return [part for part in dict.fromkeys([words.strip(), *parts]) if part]

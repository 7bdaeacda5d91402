"""Data by specification: one-sentence errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from probes import DataError, FormatError, UsageError
from repanalysis.inputs.data import load_data


def test_invalid_specifications_have_one_sentence_errors(tmp_path: Path) -> None:
    for spec, sentence in {
        "digts": "Did you mean 'digits'?",
        "npz": "Unknown data 'npz'",
        "imagefolder:": "Unknown data",
    }.items():
        with pytest.raises(UsageError, match=sentence.replace("?", r"\?")):
            load_data(spec)
    with pytest.raises(UsageError, match="The digits have no split 'val'"):
        load_data("digits", split="val")
    for spec in ("npz:none.npz", "imagefolder:none"):
        with pytest.raises(FileNotFoundError, match="There is no"):
            load_data(spec)
    with pytest.raises(DataError, match="holds no images"):
        load_data(f"imagefolder:{tmp_path}")
    (tmp_path / "bad").write_text("x")
    with pytest.raises(FormatError, match="can't be read as a tar archive"):
        load_data(f"imagefolder:{tmp_path / 'bad'}")
    with pytest.raises(FormatError, match="can't be read as an npz file"):
        load_data(f"npz:{tmp_path / 'bad'}")
    np.savez(tmp_path / "odd.npz", x=np.zeros((3, 2)), y=np.zeros(2))
    with pytest.raises(FormatError, match="has 3 samples and 2 labels"):
        load_data(f"npz:{tmp_path / 'odd.npz'}")
    np.savez(tmp_path / "pickle.npz", x=np.array([{}], dtype=object))
    with pytest.raises(FormatError, match="plain arrays"):
        load_data(f"npz:{tmp_path / 'pickle.npz'}")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "0.png").write_text("no picture")
    with pytest.raises(DataError, match=r"Image 0.png of .* can't be read"):
        load_data(f"imagefolder:{tmp_path / 'broken'}")[0]
    with pytest.raises(UsageError, match="The batch size is 0"):
        load_data("digits").loader(0)

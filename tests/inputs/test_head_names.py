"""Names of the rows of pretrained heads, from the metadata of their collections."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import timm

from probes import FormatError
from repanalysis.inputs.head_names import head_names, names_in


def test_imagenets_rows_have_wordnet_ids_and_words() -> None:
    for spec in ("timm:resnet18", "torchvision:resnet18"):
        names = head_names(spec, timm.create_model("resnet18"), 1000)
        assert len(names) == 1000
        assert {"n01440764", "tench", "Tinca tinca"} <= set(names[0])
        assert "n15075141" in names[999]
    assert head_names("timm:resnet18", timm.create_model("resnet18"), 10) == [], "another head than the pretrained one"


def test_a_network_may_name_the_rows_of_its_head() -> None:
    module = SimpleNamespace(pretrained_cfg={"label_names": ["cat", "dog"], "label_descriptions": {"cat": "cat, kitty"}})
    assert head_names("timm:mine", module, 2) == [["cat", "cat, kitty", "cat", "kitty"], ["dog"]]
    config = SimpleNamespace(config=SimpleNamespace(id2label={0: "cat, kitty", "1": "dog"}))
    assert head_names("hf:mine", config, 2) == [["cat, kitty", "cat", "kitty"], ["dog"]]
    nameless = SimpleNamespace(config=SimpleNamespace(id2label={0: "LABEL_0", 1: "LABEL_1"}))
    assert head_names("hf:mine", nameless, 2) == []
    assert head_names("py:mine:net", module, 2) == []


def test_names_of_rows_are_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "n.txt").write_text("n01440764\ttench\ngoldfish\n")
    assert names_in(tmp_path / "n.txt") == [["n01440764", "tench"], ["goldfish"]]
    (tmp_path / "n.txt").write_text("tench\n\ngoldfish\n")
    with pytest.raises(FormatError, match=r"Line 2 of .*n.txt is empty"):
        names_in(tmp_path / "n.txt")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        names_in(tmp_path / "m.txt")

"""Options that decide what a file holds: each one is a field, goes into the file, and comes back."""

from __future__ import annotations

import inspect
from dataclasses import fields

import pytest

import probes
from probes.options import CaptureOptions
from probes.recording import options_of
from repanalysis.extraction import prepare

# What changes nothing in the file, or stands in it otherwise: the network and the data themselves, where and when it runs.
OTHERS = {
    probes.capture: {"model", "loader", "device", "early_stop", "first_id", "reduce", "class_names"},
    probes.record: {"model", "loader", "path", "device", "early_stop", "attrs", "class_names", "compression", "overwrite",
                    "resume", "progress"},
    options_of: set(),
    prepare: {"model", "data", "weights", "limit", "size", "mean", "std", "workers", "device", "labels", "targets",
              "ignore_labels", "head_classes"},
}  # fmt: skip
FULL = CaptureOptions(
    layers=("a*", "re:b|c"), pool="a*=none; project:7,seed=3", ops=True, prefix_tokens=2, dtype="float16", seed=3, split="val",
    precision="bfloat16", channels_last=True, axes="a*=TBC", forward="module.f sha256 00", batch_size=12,
)  # fmt: skip


@pytest.mark.parametrize("function", OTHERS, ids=lambda function: function.__name__)
def test_no_option_is_forgotten(function: object) -> None:
    """`forward` and `split` once were: a run that was resumed with others mixed two networks in one file."""
    options = {field.name for field in fields(CaptureOptions)}
    given = set(inspect.signature(function).parameters)  # type: ignore[arg-type]
    missing = {"forward"} if function is prepare else set()
    assert given - OTHERS[function] == options - missing


@pytest.mark.parametrize("options", [CaptureOptions(), FULL])
def test_what_goes_into_a_file_comes_back(options: CaptureOptions) -> None:
    assert CaptureOptions.from_attrs(options.to_attrs()) == options
    assert set(options.to_attrs()) == {field.name for field in fields(CaptureOptions)}
    assert all(type(value) in (str, int) for value in options.to_attrs().values())


def test_every_field_of_the_example_is_not_its_default() -> None:
    assert all(getattr(FULL, field.name) != field.default for field in fields(CaptureOptions))


def test_arguments_give_the_same_options_again() -> None:
    assert options_of(**FULL.arguments(), forward=None).to_attrs() == FULL.to_attrs() | {"forward": ""}


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", "three"), ("ops", 2), ("layers", 3), ("layers", "[1]"), ("layers", '{"a": 1}'), ("prefix_tokens", "many"),
     ("pool", 3), ("batch_size", 1.5), ("channels_last", "yes")],
)  # fmt: skip
def test_attributes_of_another_type_are_refused(name: str, value: object) -> None:
    with pytest.raises(probes.FormatError, match=f"The file's attribute {name} is"):
        CaptureOptions.from_attrs({name: value})


def test_older_files_name_fewer_options() -> None:
    assert CaptureOptions.from_attrs({"layers": "relu?", "model": "m"}) == CaptureOptions(layers=("relu?",))

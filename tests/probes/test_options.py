"""Options of capture: each is a field and a keyword, is written to the file and read back."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any, get_args, get_type_hints

import pytest
import torch
from annotated_doc import Doc
from torch import nn

import probes
from probes.capturing.keywords import options_of
from probes.options import CaptureKeywords, CaptureOptions
from probes.planning import plan

FULL = CaptureOptions(
    layers=("a*", "re:b|c"), pool=("a*=none", "project:7,seed=3"), ops=True, prefix_tokens=2, dtype="float16", seed=3,
    split="val", precision="bfloat16", channels_last=True, axes=("a*=TBC",), forward="module.f sha256 00", batch_size=12,
    max_batches=5,
)  # fmt: skip
NAMES = {field.name for field in fields(CaptureOptions)}


def test_every_option_is_a_field_and_a_keyword() -> None:
    """`forward` is a function in calls and a text in the file."""
    assert set(CaptureKeywords.__annotations__) == NAMES - {"forward"}


@pytest.mark.parametrize("function", [probes.capture, probes.record, probes.attach, plan])
def test_signatures_show_every_option(function: Callable[..., Any]) -> None:
    parameters = inspect.signature(function).parameters
    for field in fields(CaptureOptions):
        if field.name != "forward":
            assert parameters[field.name].default == field.default
    assert not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def test_options_of_the_command_line_have_their_help() -> None:
    """The others belong to the command line (seed, split) or are not available there (`forward`)."""
    hints = get_type_hints(CaptureOptions, include_extras=True)
    documented = {name for name, hint in hints.items() if any(isinstance(part, Doc) for part in get_args(hint))}
    assert documented == NAMES - {"seed", "split", "forward"}


@pytest.mark.parametrize("options", [CaptureOptions(), FULL])
def test_options_are_read_back_from_a_file(options: CaptureOptions) -> None:
    assert CaptureOptions.from_attrs(options.to_attrs()) == options
    assert set(options.to_attrs()) == NAMES
    assert all(type(value) in (str, int) for value in options.to_attrs().values())


def test_option_texts_follow_format_3() -> None:
    assert FULL.to_attrs() == {
        "layers": '["a*", "re:b|c"]', "pool": "a*=none; project:7,seed=3", "ops": 1, "prefix_tokens": 2, "dtype": "float16",
        "seed": 3, "split": "val", "precision": "bfloat16", "channels_last": 1, "axes": "a*=TBC",
        "forward": "module.f sha256 00", "batch_size": 12, "max_batches": 5,
    }  # fmt: skip
    assert CaptureOptions().to_attrs()["layers"] == "leaf calls"
    assert CaptureOptions().to_attrs()["prefix_tokens"] == "auto"


def test_the_example_differs_from_every_default() -> None:
    assert all(getattr(FULL, field.name) != field.default for field in fields(CaptureOptions))


def test_keywords_reproduce_the_options() -> None:
    assert options_of(**FULL.keywords()).to_attrs() == FULL.to_attrs() | {"forward": ""}


@pytest.mark.parametrize(
    ("function", "arguments"),
    [(probes.capture, [[]]), (probes.record, [[], "x.h5"]), (plan, [torch.zeros(1), 3])],
    ids=["capture", "record", "plan"],
)
def test_unknown_keywords_are_refused_before_anything_runs(function: Callable[..., Any], arguments: list[Any]) -> None:
    with pytest.raises(TypeError, match="'poool' is not an option of a capture. Did you mean 'pool'"):
        function(nn.ReLU(), *arguments, poool="mean")


@pytest.mark.parametrize(
    ("name", "value"),
    [("seed", "three"), ("ops", 2), ("layers", 3), ("layers", "[1]"), ("layers", '{"a": 1}'), ("prefix_tokens", "many"),
     ("pool", 3), ("batch_size", 1.5), ("channels_last", "yes"), ("axes", 1), ("dtype", 32)],
)  # fmt: skip
def test_attributes_of_another_type_are_refused(name: str, value: object) -> None:
    with pytest.raises(probes.FormatError, match=f"The file's attribute {name} is"):
        CaptureOptions.from_attrs({name: value})


def test_older_files_may_have_fewer_options() -> None:
    assert CaptureOptions.from_attrs({"layers": "relu?", "model": "m"}) == CaptureOptions(layers=("relu?",), batch_size=0)

"""Options of the command line follow the declarations of the library: types, bounds, defaults, help."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pytest
from annotated_doc import Doc
from annotated_types import Ge, Le

from repanalysis.cli._declared import Options, option_of, parameters_of, regrouped
from repanalysis.specs import Names, Read


@dataclass(frozen=True)
class Bundle:
    """Options passed as one argument."""

    rate: Annotated[float, Ge(0), Doc("Learning rate.")] = 0.1
    kinds: Annotated[tuple[str, ...], Doc("Kinds.")] = ("a",)
    seed: int = 0


def function(
    source: str,
    *,
    sizes: Annotated[Sequence[int], Doc("Sizes."), Names("--size")] = (),
    quick: Annotated[bool, Doc("Be quick.")] = False,
    pairs: Annotated[bool, Doc("Count pairs.")] = True,
    bytes: Annotated[int, Doc("GiB."), Read(lambda gib: int(gib * 2**30), Annotated[float, Le(4)])] = 1,
    order: Annotated[Literal["up", "down"], Doc("Order.")] = "up",
    file: Annotated[Path | None, Doc("File.")] = None,
    hidden: int = 3,
    progress: bool | None = None,
) -> None:
    """A function of the library."""


def command(data: str, bundle: Annotated[Any, Options(Bundle)] = None, rest: Annotated[Any, Options(function)] = None) -> None:
    """A command."""


def info_of(parameter: inspect.Parameter) -> tuple[Any, Any]:
    kind, info = get_args(parameter.annotation)
    return kind, info


def flags_of(info: Any) -> list[str]:
    """Names of an option; typer keeps the first where a default would be."""
    return [flag for flag in (info.default, *info.param_decls) if isinstance(flag, str)]


def test_options_are_exactly_the_documented_parameters() -> None:
    names = [parameter.name for parameter in parameters_of(inspect.signature(command, eval_str=True))]
    assert names == ["data", "rate", "kinds", "sizes", "quick", "pairs", "bytes", "order", "file"]


def test_types_bounds_defaults_and_help_follow_the_declaration() -> None:
    options = {parameter.name: parameter for parameter in parameters_of(inspect.signature(command, eval_str=True))}
    kind, info = info_of(options["rate"])
    assert (kind, info.min, info.max, info.help, options["rate"].default) == (float, 0, None, "Learning rate.", 0.1)
    kind, info = info_of(options["kinds"])
    assert (kind, options["kinds"].default) == (list[str], ["a"])
    kind, info = info_of(options["sizes"])
    assert (kind, options["sizes"].default, flags_of(info)) == (list[int] | None, None, ["--size"])
    assert flags_of(info_of(options["quick"])[1]) == ["--quick"]
    assert flags_of(info_of(options["pairs"])[1]) == []  # --pairs and --no-pairs
    kind, info = info_of(options["bytes"])
    assert (kind, info.max, options["bytes"].default) == (float | None, 4, None)
    assert info_of(options["order"])[0] is str
    assert info_of(options["file"])[0] == Path | None


def test_a_command_receives_bundled_options_as_one_argument() -> None:
    signature = inspect.signature(command, eval_str=True)
    words = {"data": "x", "rate": 0.5, "kinds": ["b", "c"], "sizes": [1, 2], "quick": True, "pairs": True, "bytes": 0.5,
             "order": "down", "file": None}  # fmt: skip
    arguments = regrouped(signature, words, {"seed": 7, "progress": False})
    assert arguments["data"] == "x"
    assert arguments["bundle"] == Bundle(0.5, ("b", "c"), 7)
    assert arguments["rest"] == {
        "sizes": (1, 2), "quick": True, "pairs": True, "bytes": 2**29, "order": "down", "file": None, "progress": False,
    }  # fmt: skip


def test_omitted_options_keep_the_declared_default() -> None:
    signature = inspect.signature(command, eval_str=True)
    words = {parameter.name: parameter.default for parameter in parameters_of(signature)} | {"data": "x"}
    arguments = regrouped(signature, words, {"seed": 0, "progress": None})
    assert arguments["bundle"] == Bundle()
    assert (arguments["rest"]["sizes"], arguments["rest"]["bytes"]) == ((), 1)


def test_a_subset_of_the_declared_options_may_be_used() -> None:
    assert list(Options(function, only=("quick", "file")).members()) == ["quick", "file"]
    assert list(Options(Bundle, without=("kinds",)).members()) == ["rate"]
    assert Options(Bundle(rate=2.0), only=("rate",)).members()["rate"][1] == 2.0
    values = Options(Bundle(rate=2.0, kinds=("z",)), only=("rate",)).value({"rate": 3.0}, {"seed": 1, "progress": None})
    assert values == Bundle(3.0, ("z",), 1)


def test_a_parameter_without_help_is_not_an_option() -> None:
    with pytest.raises(StopIteration):
        option_of("hidden", Annotated[int, Ge(0)], 3)

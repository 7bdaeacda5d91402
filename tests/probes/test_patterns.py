"""Layer patterns: matching and proposals."""

from __future__ import annotations

import pytest

from probes import LayerInfo, UsageError
from probes.patterns import as_patterns, closest, matches, select

NAMES = ["conv1", "layer1.0.conv1", "layer1.0.relu", "layer1.0.relu_1", "layer4.1.conv2", "fc"]
INFO = {
    name: LayerInfo(name, i, (i + 1) / 6, (), module_type="ReLU" if "relu" in name else "Conv2d")
    for i, name in enumerate(NAMES)
}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("layer*.conv?", ["layer1.0.conv1", "layer4.1.conv2"]),
        ("*relu", ["layer1.0.relu"]),
        ("*relu_1", ["layer1.0.relu_1"]),
        ("re:layer[14].*conv.", ["layer1.0.conv1", "layer4.1.conv2"]),
        ("re:conv", []),
        ("fc", ["fc"]),
        ("type:ReLU", ["layer1.0.relu", "layer1.0.relu_1"]),
        ("type:Conv*", ["conv1", "layer1.0.conv1", "layer4.1.conv2", "fc"]),
    ],
)
def test_patterns_match_names(pattern: str, expected: list[str]) -> None:
    assert [name for name, info in INFO.items() if matches(pattern, name, [info.module_type])] == expected


def test_select_keeps_the_order_of_execution_without_repetition() -> None:
    assert select(["fc", "layer*", "*conv1"], INFO, "x") == ["conv1", *NAMES[1:]]
    assert select(None, INFO, "x") == NAMES


@pytest.mark.parametrize(
    ("pattern", "proposal"),
    [("layr4.*", " Did you mean 'layer4.*'?"), ("layer1.0.rel", " Did you mean 'layer1.0.relu'?"), ("re:x", ""), ("qqq", "")],
)
def test_the_closest_pattern_is_proposed_only_if_it_matches(pattern: str, proposal: str) -> None:
    assert closest(pattern, NAMES) == proposal


def test_a_pattern_that_matches_nothing_has_a_one_sentence_error() -> None:
    with pytest.raises(UsageError) as caught:
        select("layr4.*", INFO, "acts.h5")
    assert (
        str(caught.value) == "No layer of acts.h5 matches 'layr4.*'. Did you mean 'layer4.*'? `repanalysis info` lists all 6."
    )


@pytest.mark.parametrize("bad", ["re:(", []])
def test_invalid_patterns_are_refused(bad: str | list[str]) -> None:
    with pytest.raises(UsageError):
        as_patterns(bad)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("!fc", NAMES[:5]),  # alone: all but this layer
        ("!*", None),
        (["!layer*", "!fc"], ["conv1"]),
        (["*conv?", "!layer4*"], ["conv1", "layer1.0.conv1"]),
        (["!layer4*", "*conv?"], ["conv1", "layer1.0.conv1"]),  # the order does not matter
        (["fc", "!fc"], None),  # exclusions apply in any position
        (["!re:layer.*conv.", "!type:ReLU"], ["conv1", "fc"]),
    ],
)
def test_an_exclamation_mark_excludes(patterns: str | list[str], expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(UsageError, match="exclude all 6 layers of x"):
            select(patterns, INFO, "x")
    else:
        assert select(patterns, INFO, "x") == expected


def test_an_exclusion_that_matches_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match=r"No layer of x matches '!layr4.\*'. Did you mean '!layer4.\*'\?"):
        select("!layr4.*", INFO, "x")
    for empty in ("!", ""):
        with pytest.raises(UsageError, match="is empty"):
            as_patterns(empty)


def test_a_name_that_begins_with_an_exclamation_mark_can_be_escaped() -> None:
    info = {name: LayerInfo(name, i, 1.0, ()) for i, name in enumerate(["!a", "a"])}
    assert select("re:!a", info, "x") == ["!a"]
    assert select("!!a", info, "x") == select("!re:!a", info, "x") == ["a"]

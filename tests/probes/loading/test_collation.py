"""Collate functions that keep the order of samples and those that do not, for any output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import default_collate

from probes.loading.collation import InOrder, keeps_order

Samples = list[tuple[Tensor, int]]
LENGTHS = [3, 1, 4, 2]
SAMPLES: Samples = [(torch.arange(1.0, n + 1), i) for i, n in enumerate(LENGTHS)]


def padded(samples: Samples) -> tuple[Tensor, list[int]]:
    return pad_sequence([x for x, _ in samples], batch_first=True), [y for _, y in samples]


def by_length(samples: Samples) -> tuple[Tensor, list[int]]:
    samples.sort(key=lambda sample: -len(sample[0]))  # in place, as is common
    return padded(samples)


def tokens(samples: Samples) -> dict[str, Tensor]:
    x = pad_sequence([x for x, _ in samples], batch_first=True)
    return {"input_ids": x, "attention_mask": x != 0, "scale": torch.tensor(2.0)}


def detection(samples: Samples) -> tuple[Any, ...]:
    return tuple(zip(*samples, strict=True))


def reversed_(samples: Samples) -> tuple[Tensor, list[int]]:
    return padded(samples[::-1])


def random(samples: Samples) -> tuple[Tensor, list[int]]:
    return padded([samples[i] for i in torch.randperm(len(samples))])


def failing(samples: Samples) -> Any:
    if samples[0][1]:
        raise ValueError("the first sample comes first")
    return padded(samples)


@pytest.mark.parametrize(
    ("collate", "expected"),
    [(padded, True), (tokens, True), (detection, True), (by_length, False), (reversed_, False), (failing, False),
     (lambda samples: padded(samples[:3]), False), (lambda _: "a text", False)],
)  # fmt: skip
def test_order_keeping_collate_functions_are_recognised(collate: Callable[..., Any], expected: bool) -> None:
    before = list(SAMPLES)
    content, in_order = InOrder(collate)(SAMPLES)
    assert in_order is expected
    assert repr(content) == repr(collate(list(SAMPLES))), "the batch is what the function gives"
    assert before == SAMPLES, "the samples were left in place"


def test_random_collation_does_not_keep_order_and_is_checked_once() -> None:
    samples = [(torch.full((2,), float(i)), i) for i in range(20)]
    torch.manual_seed(0)
    batches = [InOrder(random)(samples) for _ in range(5)]
    assert not any(batch.in_order for batch in batches)
    torch.manual_seed(0)
    assert [batch.content[1] for batch in batches] == [random(samples)[1] for _ in range(5)]


def test_a_single_sample_is_in_order() -> None:
    assert InOrder(by_length)(SAMPLES[:1]).in_order


def test_mappings_may_be_emptied() -> None:
    def emptying(samples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {"x": torch.stack([sample.pop("x") for sample in samples])}

    assert InOrder(emptying)([{"x": torch.zeros(2)}, {"x": torch.ones(2)}]).in_order


def test_collate_functions_known_to_keep_the_order() -> None:
    class Stacking:
        keeps_order = True

        def __call__(self, samples: list[Tensor]) -> Tensor:
            return torch.stack(samples)

    assert keeps_order(default_collate)
    assert keeps_order(Stacking())
    assert not keeps_order(padded)

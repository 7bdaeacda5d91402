"""capture: items of loaders, how the network is run, and which layers are left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import probes


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 6 * 6, 2))


def loader(n: int = 20, size: int = 8) -> DataLoader[tuple[Tensor, ...]]:
    x = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, torch.arange(n) % 3), size)


@pytest.mark.parametrize(
    ("item", "labels", "ids"),
    [
        (torch.zeros(2, 1, 8, 8), None, [0, 1]),
        ((torch.zeros(2, 1, 8, 8),), None, [0, 1]),
        ([torch.zeros(2, 1, 8, 8), torch.tensor([1, 0])], [1, 0], [0, 1]),
        ((torch.zeros(2, 1, 8, 8), [1, 0], np.array([7, 5])), [1, 0], [7, 5]),
        ({"input": torch.zeros(2, 1, 8, 8), "labels": torch.tensor([1, 0])}, [1, 0], [0, 1]),
    ],
)
def test_items_of_loaders_are_read(item: object, labels: list[int] | None, ids: list[int]) -> None:
    batch = next(probes.capture(net(), [item]))
    assert (None if batch.labels is None else batch.labels.tolist()) == labels
    assert batch.ids.tolist() == ids


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        (("text",), "holds no tensor"),
        ((torch.zeros(2, 1, 8, 8), torch.ones(2, 3).long()), "labels have shape .* that are not one-hot"),
    ],
)
def test_invalid_items_of_loaders_are_refused(item: object, sentence: str) -> None:
    with pytest.raises((probes.UsageError, probes.DataError), match=sentence):
        next(probes.capture(net(), [item]))


def test_batches_are_numbered_consecutively_and_have_the_split() -> None:
    batches = list(probes.capture(net(), loader(), split="test"))
    assert np.concatenate([batch.ids for batch in batches]).tolist() == list(range(20))
    assert batches[0].split is not None
    assert set(batches[0].split) == {"test"}


def test_captured_values_agree_with_hand_written_hooks() -> None:
    model, recorded = net(), {}
    model[0].register_forward_hook(lambda _m, _a, output: recorded.update(conv=output.mean((2, 3)).clone()))
    batch = next(probes.capture(model, loader(), layers="0"))
    np.testing.assert_array_equal(batch.layers["0"], recorded["conv"].detach().numpy())


@pytest.mark.parametrize("pool", ["mean", "none"])
def test_stored_batches_keep_the_values_of_each_step(pool: str) -> None:
    """From the second step on, rows are in one block laid out beforehand; each step needs a separate block."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Identity(), nn.ReLU(inplace=True))
    steps = [torch.randn(rows, 1, 8, 8) for rows in (4, 4, 4, 2, 4)]
    batches = list(probes.capture(model, steps, pool=pool))
    for x, batch in zip(steps, batches, strict=True):
        with torch.no_grad():
            conv = model[0](x)
        for layer, expected in {"0": conv, "1": conv, "2": conv.clamp(min=0)}.items():
            recorded = expected.mean((2, 3)) if pool == "mean" else expected
            np.testing.assert_array_equal(batch.layers[layer], recorded.numpy())
    arrays = [array for batch in batches for array in batch.layers.values()]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


def test_a_forward_function_can_be_given() -> None:
    model = net()
    batch = next(probes.capture(model, [torch.zeros(2, 1, 8, 8)], forward=lambda x: model[1](model[0](x))))
    assert list(batch.layers) == ["0", "1"]


def test_an_error_of_the_model_names_the_samples() -> None:
    model = net()
    steps = [torch.zeros(2, 1, 8, 8), torch.zeros(2, 5, 8, 8)]
    with pytest.raises(RuntimeError) as caught:
        list(probes.capture(model, steps))
    assert caught.value.__notes__ == ["while Sequential ran on samples 2 to 3 (step 1)"]


def test_float16_networks_are_recorded() -> None:
    model = nn.Sequential(nn.Linear(3, 4)).to(torch.bfloat16)
    batch = next(probes.capture(model, [torch.ones(2, 3, dtype=torch.bfloat16)]))
    assert batch.layers["0"].dtype == np.float32
    assert batch.info["0"].dtype_source == "bfloat16"


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_agrees_with_autocast(precision: str) -> None:
    model, (x, _) = net().eval(), next(iter(loader()))
    batch = next(probes.capture(model, loader(), precision=precision))
    with torch.no_grad(), torch.autocast("cpu", getattr(torch, precision)):
        expected = model[0](x).float().mean((2, 3))
    assert batch.info["0"].dtype_source == precision
    np.testing.assert_allclose(batch.layers["0"], expected.numpy(), rtol=1e-5)
    with pytest.raises(probes.UsageError, match="Unknown precision 'half'"):
        next(probes.capture(model, loader(), precision="half"))


def test_channels_last_memory_changes_rounding_only() -> None:
    plain = next(probes.capture(net(), loader(), pool="none"))
    channels_last = next(probes.capture(net(), loader(), pool="none", channels_last=True))
    for name, array in plain.layers.items():
        np.testing.assert_allclose(channels_last.layers[name], array, rtol=1e-4, atol=1e-6)
        assert channels_last.layers[name].flags.c_contiguous


def test_samples_are_numbered_from_a_given_start() -> None:
    assert next(probes.capture(net(), list(loader()), first_id=100)).ids.tolist() == list(range(100, 108))


def test_pools_are_set_by_layer_and_unmatched_patterns_are_refused() -> None:
    batch = next(probes.capture(net(), loader(), pool={"type:Conv2d": "none", "1": "max"}))
    assert [info.pool for info in batch.info.values()] == ["none", "max", "mean", "mean"]
    assert batch.layers["0"].shape == (8, 3, 6, 6)
    with pytest.raises(probes.UsageError, match="No recorded layer of 'Sequential' matches 'conv', the pattern of a pool"):
        next(probes.capture(net(), loader(), pool="conv=none"))


def test_a_layer_without_the_axes_of_its_pool_is_left_out() -> None:
    with pytest.warns(probes.LeftOutWarning, match="0: it has no prefix token for the pool cls"):
        batch = next(probes.capture(net(), loader(), pool="cls"))
    assert list(batch.layers) == ["2", "3"]


def test_memory_stays_bounded_by_one_step() -> None:
    import gc
    import weakref

    references = []
    for batch in probes.capture(net(), loader(80)):
        references.append(weakref.ref(batch))
        del batch
    gc.collect()
    assert sum(reference() is not None for reference in references) == 0


class Detour(nn.Module):
    """Calls an additional layer if its input is positive, and omits another if it is not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.late, self.early, self.last = nn.Linear(3, 3), nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.last(self.late(y) if x.sum() > 0 else self.early(y))


def test_a_layer_that_first_runs_in_a_later_step_is_not_recorded() -> None:
    """A file has the same layers for every sample, and earlier rows would be missing."""
    torch.manual_seed(0)
    model, low, high = Detour(), -torch.ones(2, 3), torch.ones(2, 3)
    batches = list(probes.capture(model, [low, low, low], layers=["first", "late", "last"]))
    assert [list(batch.layers) for batch in batches] == [["first", "last"]] * 3
    batches = list(probes.capture(model, [low, high, low], layers=["first", "late", "last"]))
    for batch, x in zip(batches, (low, high, low), strict=True):
        assert list(batch.layers) == list(batch.info) == ["first", "last"]
        assert "never calls it" in batch.skipped["late"]
        with torch.no_grad():
            np.testing.assert_array_equal(batch.layers["first"], model.first(x).numpy())
            np.testing.assert_array_equal(batch.layers["last"], model(x).numpy())


def test_a_layer_that_no_longer_runs_is_left_out_from_that_step_on() -> None:
    model, low, high = Detour(), -torch.ones(2, 3), torch.ones(2, 3)
    with pytest.warns(probes.LeftOutWarning, match="early: it did not run at sample 4, as it had before"):
        batches = list(probes.capture(model, [low, low, high, low]))
    assert [list(batch.layers) for batch in batches] == [["first", "early", "last"]] * 2 + [["first", "last"]] * 2
    reasons = [batch.skipped.get("early") for batch in batches]
    assert reasons == [None, None, *["it did not run at sample 4, as it had before"] * 2]

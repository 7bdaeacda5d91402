"""Hooks leave no trace and change nothing: one tiny network for each way in which networks are built."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import probes


class Reused(nn.Module):
    """One ReLU called three times, a module under two names, and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.a = nn.Linear(4, 4)
        self.b = self.a
        self.idle = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.relu(self.b(self.relu(self.a(x)))))


class InPlace(nn.Module):
    """A convolution whose output an in-place ReLU, then an in-place addition, overwrite."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.conv(x))
        y += 1.0
        return y


class Branching(nn.Module):
    """Control flow that depends on the data, and an exception inside that the model catches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.bad = nn.Sequential(nn.Linear(5, 5))
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        with contextlib.suppress(RuntimeError):
            self.bad(self.stem(x))
        return self.head(x) if x.sum() > -1e9 else x


def attention() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)


def normed() -> nn.Module:
    return nn.Sequential(weight_norm(nn.Linear(4, 4)), nn.Identity(), nn.Dropout(0.5), nn.BatchNorm1d(4))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "reused": (Reused, (6, 4)),
    "in place": (InPlace, (6, 1, 8, 8)),
    "branching": (Branching, (6, 4)),
    "attention": (attention, (6, 5, 8)),
    "parametrized": (normed, (6, 4)),
    "root is a leaf": (lambda: nn.Linear(4, 2), (6, 4)),
    "nested": (lambda: nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Flatten()), (6, 4)),
}
every = pytest.mark.parametrize("name", NETS)


def built(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape = NETS[name]
    return make(), torch.randn(*shape)


def hooks_on(model: nn.Module) -> int:
    kinds = (
        "_forward_hooks",
        "_forward_pre_hooks",
        "_backward_hooks",
        "_forward_hooks_with_kwargs",
        "_forward_pre_hooks_with_kwargs",
    )
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


@every
def test_the_output_is_what_it_is_without_hooks(name: str) -> None:
    model, x = built(name)
    model.eval()
    with torch.no_grad():
        expected = model(x)
        with probes.attach(model):
            found = model(x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@every
def test_no_hook_is_left_after_success_error_or_interrupt(name: str) -> None:
    model, x = built(name)
    with probes.attach(model), torch.no_grad():
        model(x)
        assert hooks_on(model) > 0
    assert hooks_on(model) == 0
    for error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error), probes.attach(model):
            raise error
        assert hooks_on(model) == 0


@every
def test_between_steps_of_capture_the_model_is_as_it_was(name: str) -> None:
    model, x = built(name)
    model.train()
    next(model.modules()).training = True
    frozen = list(model.modules())[-1]
    frozen.training = False
    steps = iter(probes.capture(model, [x, x, x]))
    next(steps)
    assert hooks_on(model) == 0
    assert not frozen.training
    assert all(module.training for module in model.modules() if module is not frozen)


@every
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_step_that_fails_leaves_no_trace(name: str, error: type[BaseException]) -> None:
    model, x = built(name)
    model.train()

    def forward(batch: Tensor) -> None:
        model(batch)
        raise error("stop")

    with pytest.raises(error):
        next(probes.capture(model, [x], forward=forward))
    assert hooks_on(model) == 0
    assert all(module.training for module in model.modules())


@every
def test_every_leaf_call_is_there_with_the_rows_of_the_batch(name: str) -> None:
    model, x = built(name)
    batch = next(probes.capture(model, [x]))
    assert len(batch) == 6
    for layer, array in batch.layers.items():
        assert array.shape[0] == 6
        assert array.ndim == len(batch.info[layer].dims) == 2
        assert batch.info[layer].source_shape
    depths = [info.depth for info in batch.info.values()]
    assert depths == sorted(depths)
    assert 0 < depths[0] <= depths[-1] <= 1


def test_a_module_called_again_gets_a_number() -> None:
    model, x = built("reused")
    batch = next(probes.capture(model, [x]))
    assert list(batch.layers) == ["a", "relu", "a_1", "relu_1", "relu_2"]
    assert [info.call_index for info in batch.info.values()] == [0, 0, 1, 1, 2]
    np.testing.assert_array_equal(batch.layers["relu_2"], batch.layers["relu_1"])


def test_in_place_operations_do_not_reach_what_was_kept() -> None:
    model, x = built("in place")
    assert isinstance(model, InPlace)
    for pool in ("none", "mean"):
        batch = next(probes.capture(model, [x], pool=pool))
        with torch.no_grad():
            conv = model.conv(x)
        for layer, expected in (("conv", conv), ("relu", conv.clamp(min=0))):
            kept = expected.mean((2, 3)) if pool == "mean" else expected
            np.testing.assert_array_equal(batch.layers[layer], kept.numpy(), err_msg=f"{layer} {pool}")


def test_an_identity_is_pooled_once_but_an_in_place_change_is_seen() -> None:
    """Identity hands on the very same tensor; an in-place ReLU does too, with other values."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.ReLU(inplace=True), nn.Identity())
    batch = next(probes.capture(model, [torch.randn(6, 4)]))
    np.testing.assert_array_equal(batch.layers["0"], batch.layers["1"])
    np.testing.assert_array_equal(batch.layers["2"], np.maximum(batch.layers["0"], 0))
    np.testing.assert_array_equal(batch.layers["2"], batch.layers["3"])
    assert batch.layers["0"] is not batch.layers["1"]
    assert not np.shares_memory(batch.layers["0"], batch.layers["1"])


def test_the_whole_map_is_not_kept_alive() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    maps: list[weakref.ref[Tensor]] = []
    model[0].register_forward_hook(lambda _m, _a, output: maps.append(weakref.ref(output)))
    batch = next(probes.capture(model, [torch.randn(2, 1, 9, 9)]))
    gc.collect()
    assert maps[0]() is None
    assert batch.layers["0"].shape == (2, 4)


def test_a_leaf_is_a_call_without_calls_inside() -> None:
    """`out_proj` of attention is a child that is never called: the attention itself is the leaf; it returns (x, None)."""
    model, x = built("attention")
    batch = next(probes.capture(model, [x]))
    assert list(batch.left_out) == ["self_attn.out_proj"]
    assert "never calls it" in batch.left_out["self_attn.out_proj"]
    assert list(batch.layers) == ["self_attn", "dropout1", "norm1", "linear1", "dropout", "linear2", "dropout2", "norm2"]


def test_parametrizations_are_not_layers() -> None:
    model, x = built("parametrized")
    batch = next(probes.capture(model, [x]))
    assert [info.module_type for info in batch.info.values()] == ["ParametrizedLinear", "Identity", "Dropout", "BatchNorm1d"]


def test_an_exception_that_the_model_catches_does_not_confuse_the_calls() -> None:
    model, x = built("branching")
    with probes.attach(model) as recording, torch.no_grad():
        model(x)
        model(x)
    assert list(recording) == ["stem", "head"]
    assert list(recording.calls) == ["stem", "head", "model"]


def test_depth_does_not_depend_on_what_is_recorded() -> None:
    model, x = built("reused")
    every_layer = next(probes.capture(model, [x])).info
    some = next(probes.capture(model, [x], layers=["relu_1"])).info
    assert some["relu_1"].depth == every_layer["relu_1"].depth == 0.8
    assert some["relu_1"].order == 0


def test_outputs_whose_rows_are_no_samples_are_left_out_with_the_reason() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)
            self.ints = Argmax()

        def forward(self, x: Tensor) -> Tensor:
            return self.ints(self.inner(x.reshape(-1, 2)).reshape(x.shape)) + x

    with pytest.raises(probes.DataError, match="No layer of Windows can be recorded") as caught:
        list(probes.capture(Windows(), [torch.randn(6, 4)]))
    assert "inner: its output has shape (12, 2) for 6 samples: rows are not samples" in str(caught.value)
    assert "ints: its output is int64, not dense floating point" in str(caught.value)


@dataclass
class Output:
    last: Tensor
    pooled: Tensor | None = None


class Nested(nn.Module):
    """Tuples, mappings and dataclasses, with parts that are no tensors or whose rows are no samples."""

    class Leaf(nn.Module):
        def forward(self, x: Tensor) -> object:
            return {"a": x, "b": (x + 1, [x + 2]), "n": 3, "t": x.T}

    class Record(nn.Module):
        def forward(self, x: Tensor) -> Output:
            return Output(x)

    def __init__(self) -> None:
        super().__init__()
        self.leaf, self.record, self.lstm = self.Leaf(), self.Record(), nn.LSTM(4, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.lstm(self.record(self.leaf(x)["a"]).last[:, None])[0]


def test_every_part_of_a_nested_output_is_a_layer() -> None:
    x = torch.randn(6, 4)
    with pytest.warns(probes.LeftOutWarning, match="4 layers are left out"):
        batch = next(probes.capture(Nested(), [x]))
    assert list(batch.layers) == ["leaf.a", "leaf.b.0", "leaf.b.1.0", "record", "lstm.0"]
    np.testing.assert_array_equal(batch.layers["leaf.b.1.0"], x.numpy() + 2)
    assert batch.left_out == {
        "leaf.n": "its output is a int, not a tensor",
        "leaf.t": "its output has shape (4, 6) for 6 samples: rows are not samples",
        "lstm.1.0": "its output has shape (1, 6, 3) for 6 samples: rows are not samples",
        "lstm.1.1": "its output has shape (1, 6, 3) for 6 samples: rows are not samples",
    }
    assert batch.info["leaf.a"].depth == batch.info["leaf.b.0"].depth == pytest.approx(1 / 3)


def test_parts_can_be_chosen() -> None:
    chosen = next(probes.capture(Nested(), [torch.randn(6, 4)], layers=["leaf.b.*", "lstm.0"]))
    assert list(chosen.layers) == ["leaf.b.0", "leaf.b.1.0", "lstm.0"]


class Argmax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(-1, keepdim=True)

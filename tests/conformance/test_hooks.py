"""Hooks change nothing and are always removed: one tiny network for each style of building networks."""

from __future__ import annotations

import contextlib
import gc
import re
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import probes


class Reused(nn.Module):
    """A ReLU called three times, a module under two names, and a module that is never called."""

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
    """Control flow that depends on the data, and an exception that the model catches."""

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


class Recursive(nn.Module):
    """A module that calls itself."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, depth: int = 2) -> Tensor:
        y = self.fc(x)
        return self(y, depth - 1) if depth else y


class Views(nn.Module):
    """Modules that return views of their input and of each other's memory, which is later overwritten."""

    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :2]

    class Transposed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(-1, 2, 2).transpose(1, 2)

    def __init__(self) -> None:
        super().__init__()
        self.front, self.transposed, self.fc = self.Half(), self.Transposed(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        half, transposed = self.front(y), self.transposed(y)
        y.fill_(7.0)
        return half + transposed.sum((1, 2))[:, None]


class Keyword(nn.Module):
    """Called with keyword arguments, a container that calls nothing, and a module that returns nothing."""

    class Silent(nn.Module):
        def forward(self, *, x: Tensor) -> None:
            return None

    def __init__(self) -> None:
        super().__init__()
        self.silent, self.fc, self.empty = self.Silent(), nn.Linear(4, 2), nn.Sequential()

    def forward(self, x: Tensor) -> Tensor:
        self.silent(x=x)
        return self.fc(input=self.empty(x))


def compiled() -> nn.Module:
    """A network with a compiled part, which runs uncompiled while hooks are registered."""
    inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    return nn.Sequential(torch.compile(inner), nn.Linear(4, 2))  # type: ignore[arg-type]  # compile returns a callable


def shared() -> nn.Module:
    linear = nn.Linear(4, 4)
    return nn.Sequential(linear, nn.ReLU(), nn.Sequential(linear, nn.ReLU()))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "reused": (Reused, (6, 4)),
    "in place": (InPlace, (6, 1, 8, 8)),
    "branching": (Branching, (6, 4)),
    "attention": (attention, (6, 5, 8)),
    "parametrized": (normed, (6, 4)),
    "root is a leaf": (lambda: nn.Linear(4, 2), (6, 4)),
    "recursive": (Recursive, (6, 4)),
    "views": (Views, (6, 4)),
    "keyword": (Keyword, (6, 4)),
    "compiled inside": (compiled, (6, 4)),
    "shared": (shared, (6, 4)),
    "containers": (lambda: nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Flatten()), (6, 4)),
}
every_network = pytest.mark.parametrize("name", NETS)
pytestmark = pytest.mark.filterwarnings("ignore::probes.LeftOutWarning")


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


@every_network
def test_hooks_do_not_change_the_output(name: str) -> None:
    model, x = built(name)
    model.eval()
    with torch.no_grad():
        expected = model(x)
        with probes.attach(model):
            output = model(x)
    torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-6)


@every_network
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


@every_network
def test_the_model_is_unchanged_between_steps_of_capture(name: str) -> None:
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


def leave_by_break(steps: Iterator[probes.Batch]) -> None:
    for _ in steps:
        break


def leave_by_error(steps: Iterator[probes.Batch]) -> None:
    for _ in steps:
        raise ValueError("the traceback keeps the iteration alive")


def leave_by_close(steps: Iterator[probes.Batch]) -> None:
    next(steps)
    steps.close()  # type: ignore[attr-defined]  # a generator


def leave_by_throw(steps: Iterator[probes.Batch]) -> None:
    next(steps)
    steps.throw(KeyboardInterrupt)  # type: ignore[attr-defined]  # a generator


@every_network
@pytest.mark.parametrize("leave", [leave_by_break, leave_by_error, leave_by_close, leave_by_throw, next])
@pytest.mark.parametrize("alive", [True, False])
def test_abandoning_the_iteration_leaves_no_hook(
    name: str, leave: Callable[[Iterator[probes.Batch]], object], *, alive: bool
) -> None:
    model, x = built(name)
    model.train()
    steps = iter(probes.capture(model, [x, x, x]))
    next(steps)
    caught: list[BaseException] = []  # as a notebook keeps the last traceback
    try:
        leave(steps)
    except (ValueError, KeyboardInterrupt) as error:
        caught.append(error)
    if not alive:
        caught.clear()
        del steps
    assert hooks_on(model) == 0
    assert all(module.training for module in model.modules())


def test_an_error_of_the_loader_leaves_no_hook() -> None:
    model, x = built("reused")

    def loader() -> Iterator[Tensor]:
        yield x
        yield x
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(probes.capture(model, loader()))
    assert hooks_on(model) == 0


def assert_equal(batch: probes.Batch, expected: probes.Batch) -> None:
    assert list(batch.layers) == list(expected.layers)
    assert batch.info == expected.info
    for layer, array in expected.layers.items():
        np.testing.assert_array_equal(batch.layers[layer], array, err_msg=layer, strict=True)


@every_network
def test_a_forward_call_between_steps_is_not_recorded_and_changes_nothing(name: str) -> None:
    model, x = built(name)
    inputs = [x, x + 1, x * 2]
    expected = list(probes.capture(model, inputs))
    model.train()
    for batch, reference in zip(probes.capture(model, inputs), expected, strict=True):
        before = {layer: array.copy() for layer, array in batch.layers.items()}
        assert hooks_on(model) == 0
        assert model.training
        with torch.no_grad():
            model.eval()(-3 * x[:2])  # running statistics stay
        model.train()
        assert_equal(batch, reference)
        for layer, array in before.items():
            np.testing.assert_array_equal(batch.layers[layer], array)


@every_network
def test_iterations_over_one_model_may_be_interleaved_and_nested(name: str) -> None:
    model, x = built(name)
    a, b = [x, x + 1, x * 2], [x - 1, x * 3, x]
    expected = [list(probes.capture(model, inputs)) for inputs in (a, b)]
    both = zip(probes.capture(model, a), probes.capture(model, b), *expected, strict=True)
    for found_a, found_b, right_a, right_b in both:
        assert_equal(found_a, right_a)
        assert_equal(found_b, right_b)
    for outer, right_a in zip(probes.capture(model, a), expected[0], strict=True):
        for inner, right_b in zip(probes.capture(model, b), expected[1], strict=True):
            assert_equal(inner, right_b)
        assert_equal(outer, right_a)
    assert hooks_on(model) == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("name", ["reused", "recursive"])
def test_a_pass_ended_by_an_error_does_not_affect_the_next(name: str, error: type[BaseException]) -> None:
    model, x = built(name)
    model.eval()
    with probes.attach(model) as recording, torch.no_grad():
        model(x)
        expected = {layer: rows.clone() for layer, rows in recording.items()}
        inner = next(module for module in model.modules() if not list(module.children()))
        handle = inner.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(error))
        with pytest.raises(error):
            model(x)
        handle.remove()
        model(x[:3])
        assert {layer: len(rows) for layer, rows in recording.items()} == dict.fromkeys(expected, 3)
        model(x)
        for layer, rows in recording.items():
            np.testing.assert_array_equal(rows, expected[layer])


def test_an_enclosing_recording_records_the_steps_of_an_iteration() -> None:
    model, x = built("reused")
    model.eval()
    with probes.attach(model) as recording:
        for batch in probes.capture(model, [x, x + 1]):
            for layer, array in batch.layers.items():
                np.testing.assert_array_equal(recording[layer].numpy(), array)
        assert hooks_on(model) > 0
    assert hooks_on(model) == 0


@every_network
@pytest.mark.parametrize("ops", [False, True])
@pytest.mark.parametrize("pool", ["mean", "none", "max", "mean_std", "project:3"])
def test_every_step_equals_a_separate_capture(name: str, pool: str, *, ops: bool) -> None:
    """The axes inferred in the first step are used for later steps of any number of samples."""
    model, x = built(name)
    inputs = [x, x + 1, x[:3] * 2, x - 1, x[:1], x[:1] + 1]
    steps = list(probes.capture(model, inputs, pool=pool, ops=ops, early_stop=False))
    for batch, item in zip(steps, inputs, strict=True):
        separate = next(probes.capture(model, [item], pool=pool, ops=ops))
        assert batch.info == separate.info
        for layer, array in separate.layers.items():
            np.testing.assert_array_equal(batch.layers[layer], array, err_msg=layer, strict=True)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("dtype", ["auto", "float32", "float16"])
def test_every_step_equals_a_separate_capture_in_every_precision(precision: str, dtype: str) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Identity(), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(108, 2))
    inputs = [torch.randn(4, 1, 8, 8) for _ in range(3)]
    steps = list(probes.capture(model, inputs, precision=precision, dtype=dtype))
    for batch, x in zip(steps, inputs, strict=True):
        separate = next(probes.capture(model, [x], precision=precision, dtype=dtype))
        assert batch.info == separate.info
        for layer, array in separate.layers.items():
            np.testing.assert_array_equal(batch.layers[layer], array, err_msg=layer, strict=True)


def test_a_pool_permutes_the_axes_of_a_cube_in_every_step() -> None:
    """Channels last, as many as rows and columns: the grid pool puts them first, in the same memory and shape."""
    model = nn.Sequential(nn.Linear(4, 4))
    x = torch.randn(2, 4, 4, 4)
    for batch in probes.capture(model, [x, x, x], pool="grid:4"):
        with torch.no_grad():
            np.testing.assert_array_equal(batch.layers["0"], model(x).movedim(-1, 1).numpy())


class Wayward(nn.Module):
    """The layers called, their order, nesting and count, and the structure and type of their outputs depend on the data."""

    class Either(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
            if x[0, 0] > 2:
                return self.inner(x), x
            return self.inner(x) if x[0, 0] > 0 else x * 2

    class Kind(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.double() if x[0, 0] < -2 else x.view(-1, 2, 2) if x[0, 0] > 2 else x.long() if x[0, 0] < 0 else x

    def __init__(self) -> None:
        super().__init__()
        self.a, self.either, self.kind, self.same = nn.Linear(4, 4), self.Either(), self.Kind(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for _ in range(1 + int(x[0, 0].abs())):
            y = self.same(self.a(y))
        self.kind(x)
        self.either(x)
        return self.same(y) if x[0, 0] < 0 else self.a(y)


def test_a_different_path_through_the_network_is_recorded_like_the_first() -> None:
    torch.manual_seed(0)
    model = Wayward().eval()
    firsts = [1.0, -1.0, 3.0, -3.0, 1.0, 3.0, 1.0, -1.0, -3.0, 0.5]
    with probes.attach(model, layers="*") as recording, torch.no_grad():
        for first in firsts:
            x = torch.randn(5, 4)
            x[0, 0] = first
            model(x)
            with probes.attach(model, layers="*") as separate:
                model(x)
            assert recording.calls == separate.calls
            assert recording.skipped == separate.skipped
            assert recording.info == separate.info
            for layer, rows in separate.items():
                torch.testing.assert_close(recording[layer], rows, rtol=0, atol=0)


def test_images_of_another_size_are_recorded_like_the_first() -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(inplace=True), nn.Conv2d(3, 2, 3)).eval()
    with probes.attach(model, pool={"0": "none", "*": "mean"}) as recording, torch.no_grad():
        for size in (8, 8, 10, 10, 8, 12, 12):
            x = torch.randn(3, 1, size, size)
            model(x)
            conv = model[0](x)
            torch.testing.assert_close(recording["0"], conv, rtol=0, atol=0)
            torch.testing.assert_close(recording["1"], conv.relu().mean((2, 3)), rtol=0, atol=0)
            assert recording.info["0"].source_shape == (3, size - 2, size - 2)


def test_inference_mode_is_refused_in_later_passes_too_and_gradients_are_not_kept() -> None:
    model, x = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten()), torch.randn(2, 1, 8, 8)
    with probes.attach(model) as recording:
        for _ in range(3):
            expected = model(x)
            assert not recording["0"].requires_grad
            torch.testing.assert_close(recording["0"], model[0](x).detach().mean((2, 3)), rtol=0, atol=0)
            assert expected.requires_grad
        with torch.inference_mode():
            model(x)
        assert "use torch.no_grad()" in recording.skipped["0"]
        assert not len(recording)
        model(x)
        assert list(recording) == ["0", "1"]


def test_rows_already_read_are_not_overwritten_by_later_passes() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Identity())
    read: list[tuple[Tensor, Tensor]] = []
    with probes.attach(model) as recording, torch.no_grad():
        for _ in range(8):
            x = torch.randn(4, 3)
            model(x)
            read.append((recording["1"], model[0](x)))
    for rows, expected in read:
        torch.testing.assert_close(rows, expected, rtol=0, atol=0)


def test_a_recording_is_freed_with_its_last_reference() -> None:
    """Reference cycles would keep the memory of entire steps until garbage collection."""
    model, x = built("reused")
    gc.collect()
    gc.disable()
    try:
        with probes.attach(model) as recording:
            model(x)
        dead = weakref.ref(recording)
        del recording
        assert dead() is None
    finally:
        gc.enable()


@every_network
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


@every_network
def test_hand_written_hooks_record_the_same(name: str) -> None:
    """What capture records of every module's first call equals the output seen by a plain hook, bit for bit."""
    model, x = built(name)
    outputs: dict[str, np.ndarray] = {}

    def hook(path: str) -> Callable[..., None]:
        def keep(_module: nn.Module, _args: object, output: object) -> None:
            if isinstance(output, Tensor) and path not in outputs:
                outputs[path] = output.detach().clone().numpy()

        return keep

    if name != "compiled inside":
        handles = [module.register_forward_hook(hook(path or "model")) for path, module in model.named_modules()]
        with torch.no_grad():
            model.eval()(x)
        for handle in handles:
            handle.remove()
    batch = next(probes.capture(model, [x], pool="none"))
    for layer, array in batch.layers.items():
        if layer in outputs:
            np.testing.assert_array_equal(array.reshape(outputs[layer].shape), outputs[layer], err_msg=layer)
            assert array.flags.owndata or array.base is not None


@every_network
def test_stopping_early_changes_only_the_time(name: str) -> None:
    model, x = built(name)
    full = list(probes.capture(model, [x, x + 1, x * 2], early_stop=False))
    first = next(iter(full[0].layers))
    calls: list[None] = []
    handle = model.register_forward_hook(lambda *_: calls.append(None))
    list(probes.capture(model, [x], early_stop=False))
    calls_for_one_batch = len(calls)
    list(probes.capture(model, [x, x], early_stop=False))
    calls_per_pass = len(calls) - 2 * calls_for_one_batch  # the others measure the axes
    measuring, before = calls_for_one_batch - calls_per_pass, len(calls)
    short = list(probes.capture(model, [x, x + 1, x * 2], layers=f"re:{re.escape(first)}"))
    handle.remove()
    for a, b in zip(full, short, strict=True):
        np.testing.assert_array_equal(a.layers[first], b.layers[first])
        assert b.info[first].depth == a.info[first].depth
    assert len(calls) - before == measuring + calls_per_pass * (3 if full[0].info[first].depth == 1.0 else 1)
    assert hooks_on(model) == 0


@every_network
def test_every_leaf_call_has_the_rows_of_the_batch(name: str) -> None:
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


def test_in_place_operations_do_not_change_recorded_rows() -> None:
    model, x = built("in place")
    assert isinstance(model, InPlace)
    for pool in ("none", "mean"):
        batch = next(probes.capture(model, [x], pool=pool))
        with torch.no_grad():
            conv = model.conv(x)
        for layer, expected in (("conv", conv), ("relu", conv.clamp(min=0))):
            rows = expected.mean((2, 3)) if pool == "mean" else expected
            np.testing.assert_array_equal(batch.layers[layer], rows.numpy(), err_msg=f"{layer} {pool}")


def test_an_identity_is_pooled_once_but_an_in_place_change_is_recorded() -> None:
    """Identity returns its input tensor; an in-place ReLU does too, with other values."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.ReLU(inplace=True), nn.Identity())
    batch = next(probes.capture(model, [torch.randn(6, 4)]))
    np.testing.assert_array_equal(batch.layers["0"], batch.layers["1"])
    np.testing.assert_array_equal(batch.layers["2"], np.maximum(batch.layers["0"], 0))
    np.testing.assert_array_equal(batch.layers["2"], batch.layers["3"])
    assert batch.layers["0"] is not batch.layers["1"]
    assert not np.shares_memory(batch.layers["0"], batch.layers["1"])


def test_the_full_feature_map_is_not_kept_in_memory() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    maps: list[weakref.ref[Tensor]] = []
    model[0].register_forward_hook(lambda _m, _a, output: maps.append(weakref.ref(output)))
    batch = next(probes.capture(model, [torch.randn(2, 1, 9, 9)]))
    gc.collect()
    assert maps[0]() is None
    assert batch.layers["0"].shape == (2, 4)


def test_a_leaf_is_a_call_without_calls_inside() -> None:
    """`out_proj` of attention is a child that is never called, so the attention itself is the leaf; it returns (x, None)."""
    model, x = built("attention")
    batch = next(probes.capture(model, [x]))
    assert list(batch.skipped) == ["self_attn.out_proj"]
    assert "never calls it" in batch.skipped["self_attn.out_proj"]
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


def test_depth_does_not_depend_on_the_selected_layers() -> None:
    model, x = built("reused")
    every_layer = next(probes.capture(model, [x])).info
    selected = next(probes.capture(model, [x], layers=["relu_1"])).info
    assert selected["relu_1"].depth == every_layer["relu_1"].depth == 0.8
    assert selected["relu_1"].order == 0


def test_outputs_without_a_row_per_sample_are_left_out_with_the_reason() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)
            self.ints = Argmax()

        def forward(self, x: Tensor) -> Tensor:
            return self.ints(self.inner(x.reshape(-1, 2)).reshape(x.shape)) + x

    with pytest.raises(probes.DataError, match="No layer of Windows can be recorded") as caught:
        list(probes.capture(Windows(), [torch.randn(6, 4)]))
    assert "inner: its output has shape (12, 2) for 6 samples: axis 0 of its 2 holds 2 rows for each sample" in str(
        caught.value
    )
    assert "ints: its output is int64, not dense floating point" in str(caught.value)


@dataclass
class Output:
    last: Tensor
    pooled: Tensor | None = None


class Nested(nn.Module):
    """Tuples, mappings and dataclasses, with parts that are not tensors or have no row per sample."""

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
    with pytest.warns(probes.LeftOutWarning, match="1 layers are left out"):
        batch = next(probes.capture(Nested(), [x]))
    assert list(batch.layers) == ["leaf.a", "leaf.b.0", "leaf.b.1.0", "leaf.t", "record", "lstm.0", "lstm.1.0", "lstm.1.1"]
    np.testing.assert_array_equal(batch.layers["leaf.t"], x.numpy())
    np.testing.assert_array_equal(batch.layers["leaf.b.1.0"], x.numpy() + 2)
    assert batch.skipped == {"leaf.n": "its output is a int, not a tensor"}
    assert batch.info["lstm.1.0"].dims == ("sample", "layer", "channel")
    assert batch.layers["lstm.1.0"].shape == (6, 1, 3)
    assert batch.info["leaf.a"].depth == batch.info["leaf.b.0"].depth == pytest.approx(1 / 3)


def test_parts_of_an_output_can_be_selected() -> None:
    batch = next(probes.capture(Nested(), [torch.randn(6, 4)], layers=["leaf.b.*", "lstm.0"]))
    assert list(batch.layers) == ["leaf.b.0", "leaf.b.1.0", "lstm.0"]


def test_views_are_copied_before_they_change() -> None:
    model, x = built("views")
    assert isinstance(model, Views)
    batch = next(probes.capture(model, [x], pool="none"))
    with torch.no_grad():
        y = model.fc(x)
    np.testing.assert_array_equal(batch.layers["front"], y[:, :2].numpy())
    np.testing.assert_array_equal(batch.layers["transposed"], y.view(-1, 2, 2).transpose(1, 2).numpy())


def test_recursive_and_shared_modules_are_numbered_in_the_order_of_their_calls() -> None:
    model, x = built("recursive")
    with probes.attach(model, layers="*") as recording, torch.no_grad():
        out = model(x)
    assert list(recording) == ["fc", "fc_1", "fc_2", "model_2", "model_1", "model"]
    assert [info.call_index for info in recording.info.values()] == [0, 1, 2, 2, 1, 0]
    torch.testing.assert_close(recording["fc_2"], out, rtol=0, atol=0)
    model, x = built("shared")
    assert list(next(probes.capture(model, [x])).layers) == ["0", "1", "0_1", "2.1"]


def test_compiled_modules_keep_their_names() -> None:
    model, x = built("compiled inside")
    assert list(next(probes.capture(model, [x])).layers) == ["0.0", "0.1", "1"]


def test_a_network_compiled_in_place_is_recorded() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    model.compile()
    assert list(next(probes.capture(model, [torch.randn(6, 4)])).layers) == ["0", "1"]


def test_modules_that_never_ran_or_returned_nothing_are_listed_with_the_reason() -> None:
    model, x = built("reused")
    assert "never calls it" in next(probes.capture(model, [x])).skipped["idle"]
    model, x = built("keyword")
    with pytest.warns(probes.LeftOutWarning, match="silent: its output is a NoneType, not a tensor"):
        batch = next(probes.capture(model, [x]))
    assert list(batch.layers) == ["empty", "fc"]


def test_every_part_of_a_huggingface_style_output_is_a_layer() -> None:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4
    )
    model, x = ViTModel(config), torch.randn(3, 3, 8, 8)
    batch = next(probes.capture(model, [{"pixel_values": x}], layers=["model*", "layernorm"], pool="cls"))
    assert batch.layers["model.last_hidden_state"].shape == (3, 8)
    assert batch.info["layernorm"].prefix_tokens == 1
    with torch.no_grad():
        expected = model.eval()(x).last_hidden_state[:, 0]
    np.testing.assert_array_equal(batch.layers["model.last_hidden_state"], expected.numpy())


def test_a_layer_missing_in_the_first_step_is_reported() -> None:
    class Fickle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)) if x.sum() > 0 else self.a(x)

    steps = probes.capture(Fickle(), [torch.ones(2, 4), -torch.ones(2, 4)])
    assert list(next(steps).layers) == ["a", "b"]
    with pytest.warns(probes.LeftOutWarning, match="b: it did not run at sample 2, as it had before"):
        second = next(steps)
    assert list(second.layers) == ["a"]
    assert "did not run" in second.skipped["b"]


class Argmax(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.argmax(-1, keepdim=True)

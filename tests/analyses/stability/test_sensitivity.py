"""Sensitivity: closed forms of pooling, invariances, a slow plain version as oracle, invalid input."""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from probes.errors import DataError, LeftOutWarning, UsageError
from repanalysis.analyses.stability.sensitivity import (
    _json_values,
    _median,
    batch_statistics,
    geometric_mean,
    pooling_parts,
    stability,
)
from repanalysis.perturbations import perturbations
from repanalysis.table import Table
from repanalysis.theory.pooling_scalings import PoolingNet, predicted

BOTH = ["diffeo:delta=1,c=3", "noise:match=diffeo"]


@pytest.fixture
def images() -> Tensor:
    return torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(3))


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(8, 6, 3), nn.Flatten(),
        nn.Linear(216, 4),
    )  # fmt: skip


def value_of(table: Table, layer: str, label: str = "diffeo", metric: str = "sensitivity", variant: str = "") -> float:
    rows = table.select(layer=layer, metric=metric, perturbation=label, variant=variant).frame
    return float(rows["value"].item())


def plain(f: nn.Module, x: Tensor, perturbed: Tensor, statistic: str = "mean") -> float:
    """The definition, over all pairs."""
    with torch.no_grad():
        a, b = f.double()(x.double()).flatten(1), f(perturbed.double()).flatten(1)
    pairs = torch.cdist(a, a, compute_mode="donot_use_mm_for_euclid_dist").square()
    if statistic == "mean":
        return float((b - a).square().sum(1).mean() / pairs.mean())
    return float(np.median((b - a).square().numpy(), axis=0).sum() / np.median(pairs.numpy()))


@pytest.mark.parametrize("statistic", ["mean", "median"])
@pytest.mark.parametrize("size", [5, 24])
def test_it_agrees_with_the_definition_for_any_batch_size(images: Tensor, statistic: str, size: int) -> None:
    model, perturbation = net().eval(), perturbations(BOTH)[0]
    table = stability(model, torch.split(images, size), [perturbation], statistic=statistic)  # type: ignore[arg-type]
    perturbed = perturbation(images.double(), range(24)).float()
    for index in range(len(model)):
        expected = plain(model[: index + 1], images, perturbed, statistic)
        model.float()
        # The network computes in float32, the oracle in float64.
        assert value_of(table, str(index)) == pytest.approx(expected, rel=2e-4)


def test_at_the_input_relative_stability_is_1(images: Tensor) -> None:
    table = stability(net(), [images], perturbations(BOTH))
    assert value_of(table, "input", metric="relative_stability") == pytest.approx(1, abs=1e-10)


def test_without_self_pairs_the_denominator_is_over_distinct_images(images: Tensor) -> None:
    shift = perturbations("shift:1")
    ratio = value_of(stability(net(), [images], shift), "4", "shift") / value_of(
        stability(net(), [images], shift, self_pairs=False), "4", "shift"
    )
    assert ratio == pytest.approx(24 / 23, rel=1e-12)


class Pool(nn.Module):
    """One layer of the idealised network: circular mean over three pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + x.roll(-1, 3) + x.roll(-2, 3)) / 3


def test_a_pooling_network_has_the_predicted_sensitivity() -> None:
    pixels = torch.eye(64, dtype=torch.float64).view(64, 1, 1, 64)
    table = stability(nn.Sequential(*[Pool() for _ in range(8)]), torch.split(pixels, 10), perturbations("shift:1"))
    expected = predicted(PoolingNet(pixels=64, width=3), np.arange(1, 9))["D"]
    np.testing.assert_allclose([value_of(table, str(k), "shift") for k in range(8)], expected, rtol=1e-10)


def test_a_global_mean_is_invariant_to_circular_shifts(images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    table = stability(model.double(), [images.double()], perturbations("shift:3"))
    assert value_of(table, "2", "shift") == pytest.approx(0, abs=1e-20)
    assert value_of(table, "1", "shift") > 0.1


class Affine(nn.Module):
    def __init__(self, matrix: Tensor, offset: float) -> None:
        super().__init__()
        self.matrix, self.offset = matrix, offset

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.matrix + self.offset


def test_rotations_scales_and_offsets_of_features_change_nothing(images: Tensor) -> None:
    rotation = torch.linalg.qr(torch.randn(768, 768, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    model = nn.Sequential(nn.Flatten(), Affine(3 * rotation, 1e4))
    table = stability(model, torch.split(images.double(), 7), perturbations(BOTH))
    for label in ("diffeo", "noise:match=diffeo"):
        assert value_of(table, "1", label) == pytest.approx(value_of(table, "0", label), rel=1e-9)


def test_a_wide_random_linear_map_keeps_relative_stability(images: Tensor) -> None:
    matrix = torch.randn(768, 20_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    table = stability(nn.Sequential(Affine(matrix, 0.0)), [images.double()], perturbations(BOTH))
    assert value_of(table, "0", metric="relative_stability") == pytest.approx(
        1, abs=0.03
    )  # deviations are of order (2 / 20,000)^(1/2)


def test_standard_errors_agree_with_the_standard_deviation_over_samples_of_images() -> None:
    model = net().eval()
    values, errors = [], []
    for draw in range(60):
        generator = torch.Generator().manual_seed(draw)
        coarse = torch.rand(40, 3, 5, 5, generator=generator) * (torch.rand(40, 1, 1, 1, generator=generator) + 0.2)
        x = torch.nn.functional.interpolate(coarse, size=16, mode="bilinear")
        table = stability(model, torch.split(x, 16), perturbations(BOTH, seed=draw))
        rows = [
            table.select(layer="4", metric=metric, perturbation="diffeo", variant="").frame.iloc[0]
            for metric in ("sensitivity", "relative_stability")
        ]
        values.append([row["value"] for row in rows])
        errors.append([row["se"] for row in rows])
    # 60 draws give a standard deviation to 9 %; the bias of the delta method at n = 40 is a few per cent.
    np.testing.assert_allclose(np.mean(errors, axis=0), np.std(values, axis=0), rtol=0.3)


def test_an_identity_layer_has_the_values_of_its_input(images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity(), nn.ReLU(inplace=True))
    table = stability(model, torch.split(images, 9), perturbations(BOTH))
    assert value_of(table, "1") == value_of(table, "0") != value_of(table, "2")


@pytest.mark.parametrize("last", [nn.Threshold(1e9, 0.0), nn.Threshold(1e9, 2.5)])
def test_a_constant_layer_is_undefined_with_a_reason(images: Tensor, last: nn.Module) -> None:
    table = stability(nn.Sequential(nn.Conv2d(3, 4, 3), last), [images], perturbations(BOTH))
    rows = table.select(layer="1", metric="sensitivity", variant="").frame
    assert rows["value"].isna().all()
    assert set(rows["note"]) == {"all images give the same output here"}
    assert table.select(layer="1", metric="relative_stability").frame["note"].item() == "the perturbation changes no image"


def test_the_rounding_of_the_mean_of_equal_outputs_is_not_a_variance(images: Tensor) -> None:
    """The float32 mean of 23 outputs of 0.1 differs from 0.1."""
    constant = torch.full((23, 4), 0.1)
    assert (constant.mean(0) != 0.1).any()
    table = stability(
        nn.Sequential(nn.Flatten(), nn.Linear(768, 4), nn.Threshold(1e9, 0.1)), [images[:23]], perturbations(BOTH)
    )
    rows = table.select(layer="2", metric="sensitivity", variant="").frame
    assert rows["value"].isna().all()


def test_constant_images_do_not_change_relative_stability(images: Tensor) -> None:
    flat = torch.full((6, 3, 16, 16), 0.5)
    pair = perturbations(BOTH)
    without_flat, with_flat = (stability(net().eval(), [x], pair) for x in (images, torch.cat([images, flat])))
    before, after = (value_of(table, "4", metric="relative_stability") for table in (without_flat, with_flat))
    assert after == pytest.approx(before, rel=1e-6)


def test_batch_statistics_are_per_part_and_leave_the_model_unchanged(images: Tensor) -> None:
    model = net().eval()
    shift = perturbations("shift:2")
    table = stability(model, [images], shift, batch_norm="batch")
    training = net().train()
    with torch.no_grad():
        a, b = training[:2](images).flatten(1), training[:2](shift[0](images, range(24))).flatten(1)
    expected = float((a - b).square().sum(1).mean() / (2 * (a - a.mean(0)).square().sum(1).mean()))
    assert value_of(table, "1", "shift") == pytest.approx(expected, rel=1e-5)
    assert "forward" not in vars(model[1])
    assert torch.equal(model[1].running_mean, torch.zeros(8))  # type: ignore[arg-type]


def test_batch_statistics_are_switched_off_after_an_exception() -> None:
    model = net().eval()
    with pytest.raises(ZeroDivisionError), batch_statistics(model):
        raise ZeroDivisionError
    assert model[1].running_var is not None


def test_geometric_mean_averages_networks_in_logarithms(images: Tensor) -> None:
    shift = perturbations("shift:1")
    tables = [stability(net(seed), [images], shift, run=f"net {seed}") for seed in range(3)]
    mean = geometric_mean(tables, run="init")
    values = np.array([value_of(table, "4", "shift") for table in tables])
    row = mean.select(layer="4", metric="sensitivity", variant="").frame.iloc[0]
    assert row["value"] == pytest.approx(np.prod(values) ** (1 / 3), rel=1e-12)
    assert row["se"] == pytest.approx(row["value"] * np.std(np.log(values), ddof=1) / 3**0.5, rel=1e-12)
    assert "3 networks" in row["note"]
    with pytest.raises(UsageError, match="same layers"):
        geometric_mean([tables[0], stability(net()[:3], [images], shift)], run="x")


def test_pooling_parts_sum_to_the_total(images: Tensor) -> None:
    shifts = perturbations(["shift:1..2", "diffeo"])
    trained, shuffled, init = (stability(net(seed), [images], shifts, run=str(seed)) for seed in range(3))
    parts = pooling_parts(trained, shuffled, init, run="parts")
    for layer in ("0", "4", "6"):
        total = sum(
            float(parts.select(layer=layer, metric=f"{kind}_pooling", variant="shift 2").frame["value"].item())
            for kind in ("spatial", "channel")
        )
        ratio = [
            table.select(layer=layer, perturbation="shift", strength=2.0, metric="sensitivity", variant="")
            for table in (init, trained)
        ]
        values = [float(selected.frame["value"].item()) for selected in ratio]
        assert total == pytest.approx(np.log(values[0] / values[1]), rel=1e-12)
        a, b = (
            table.select(layer=layer, perturbation="shift", strength=2.0, metric="sensitivity", variant="").frame.iloc[0]
            for table in (init, shuffled)
        )
        row = parts.select(layer=layer, metric="spatial_pooling", variant="shift 2").frame.iloc[0]
        assert row["value"] == pytest.approx(np.log(a["value"] / b["value"]), rel=1e-12)
        assert row["se"] == pytest.approx(np.hypot(a["se"] / a["value"], b["se"] / b["value"]), rel=1e-12)
    with pytest.raises(UsageError, match="same layers"):
        pooling_parts(trained, shuffled, stability(net()[:2], [images], shifts), run="x")


def test_stability_leaves_the_model_unchanged(images: Tensor) -> None:
    model = net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stability(model, [images], perturbations(BOTH))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("loader", "sentence"),
    [
        ([torch.rand(1, 3, 16, 16)], "The loader has 1 image; distances between images need at least two"),
        ([torch.rand(4, 9)], "Images are"),
        ([{"pixels": torch.rand(4, 3, 16, 16)}], "the loader's x is a dict"),
        ([torch.full((4, 3, 16, 16), torch.nan)], "contain NaN"),
    ],
)
def test_invalid_images_have_one_sentence_errors(loader: list[Tensor], sentence: str) -> None:
    with pytest.raises((UsageError, DataError), match=sentence):
        stability(net(), loader, perturbations("shift:1"))


def test_no_perturbation_has_a_one_sentence_error(images: Tensor) -> None:
    with pytest.raises(UsageError, match="at least one perturbation"):
        stability(net(), [images], [])


def test_images_may_have_names_and_real_valued_targets(images: Tensor) -> None:
    model, both = net(), perturbations(BOTH)
    values = stability(model, [images[:12], images[12:]], both).frame["value"]
    named = [{"input": x, "labels": torch.rand(12)} for x in images.split(12)]
    np.testing.assert_array_equal(stability(model, named, both).frame["value"], values)
    data = TensorDataset(images, torch.rand(24))
    np.testing.assert_allclose(stability(model, data, both).frame["value"], values, rtol=1e-4)


def test_a_repeated_image_is_refused(images: Tensor) -> None:
    with pytest.raises(DataError, match="Sample id 1 comes a second time"):
        stability(net(), [(images[:2], None, [0, 1]), (images[2:4], None, [1, 2])], perturbations(BOTH))


class _Overflow(nn.Module):
    """Infinite for the images whose first pixel is negative, also after perturbations."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.flatten(1).min(1).values[:, None, None, None] < -10, torch.inf, x)


@pytest.mark.parametrize("statistic", ["mean", "median"])
@pytest.mark.parametrize("size", [5, 24])
def test_a_non_finite_layer_does_not_stop_others_and_is_not_called_constant(images: Tensor, statistic: str, size: int) -> None:
    """Regression: its variance was NaN and treated like 0, so the note was that all images give the same output."""
    images = images.clone()
    images[[3, 20], :, 8, 8] = -1000.0
    model = nn.Sequential(nn.AvgPool2d(2), _Overflow(), nn.AvgPool2d(8))
    options = {"statistic": statistic, "progress": False}
    batches = list(images.split(size))
    both = perturbations(BOTH)
    with pytest.warns(
        LeftOutWarning, match="2 of 4 layers could not be analyzed, '1' first: has NaN or infinite outputs for image 3"
    ):
        table = stability(model, batches, both, **options)  # type: ignore[arg-type]
    reason = "has NaN or infinite outputs for image 3, the first of 2 of 24"
    assert table.failures == {"1": reason, "2": reason}
    finite_layers = stability(model[:1], batches, both, **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(table.select(layer="0").frame["value"], finite_layers.select(layer="0").frame["value"])
    rows = table.select(layer="1").frame
    assert len(rows) == len(table.select(layer="0").frame)
    assert rows["value"].isna().all()
    assert set(rows["note"]) == {reason}
    with pytest.raises(DataError, match="Layer '1' has NaN or infinite outputs for image 3"):
        stability(model, batches, both, strict=True, **options)  # type: ignore[arg-type]
    mean = geometric_mean([alone_like(table), table], run="both")
    assert mean.select(layer="1").frame["note"].tolist() == [reason] * len(rows)
    assert mean.failures == {"1": reason, "2": reason}


def alone_like(table: Table) -> Table:
    """A network of the same layers without failures."""
    return Table(table.frame.assign(value=1.0, note=""), {"whole": {}})


def test_limiting_batches_equals_a_smaller_loader(images: Tensor) -> None:
    net = nn.Sequential(nn.Conv2d(images.shape[1], 4, 3), nn.ReLU())
    batches = list(torch.split(images, 5))
    first = stability(net, batches, perturbations("shift:1"), max_batches=2, progress=False)
    expected = stability(net, batches[:2], perturbations("shift:1"), progress=False)
    assert first.frame.equals(expected.frame)
    assert set(first.frame["n"]) == {10}


@pytest.mark.parametrize("sizes", [[24], [10, 14], [3, 8, 13]])
@pytest.mark.parametrize("self_pairs", [True, False])
def test_standard_errors_are_the_delta_method_on_per_image_values(images: Tensor, sizes: list[int], self_pairs: bool) -> None:
    """With a_i = ||f(tau x_i) - f(x_i)||^2, e_i the same of noise, c_i = ||f(x_i) - c||^2, c the mean of the first step's."""
    model, pair = net().double().eval(), perturbations(BOTH)
    x = images.double()
    table = stability(model, torch.split(x, sizes), pair, self_pairs=self_pairs, progress=False)
    perturbed = pair[0](x, range(24))
    versions = [x, perturbed, pair[1].matched_to(x, perturbed, range(24))]  # type: ignore[attr-defined]
    n, factor = 24, 2 * (1 if self_pairs else 24 / 23)
    for layer, part in (("input", nn.Identity()), ("2", model[:3]), ("6", model)):
        with torch.no_grad():
            f, g, h = (part(version).flatten(1) for version in versions)
        a, e = (g - f).square().sum(1).numpy(), (h - f).square().sum(1).numpy()
        c = (f - f[: sizes[0]].mean(0)).square().sum(1).numpy()
        distance = factor * float((f - f.mean(0)).square().sum(1).mean())

        def error(over: np.ndarray, ratio: float, under: np.ndarray) -> float:
            return float(np.std(over - ratio * under, ddof=1) / np.sqrt(n))

        sensitivity = a.mean() / distance
        expected = {
            ("squared_distance", ""): factor * np.std(c, ddof=1) / np.sqrt(n),
            ("sensitivity", "numerator"): np.std(a, ddof=1) / np.sqrt(n),
            ("sensitivity", ""): error(a, sensitivity * factor, c) / distance,
            ("relative_stability", ""): error(a, a.mean() / e.mean(), e) / e.mean(),
        }
        for (metric, variant), se in expected.items():
            label = "" if metric == "squared_distance" else "diffeo"
            (row,) = table.select(layer=layer, metric=metric, variant=variant, perturbation=label).frame["se"]
            assert row == pytest.approx(se, rel=1e-9, abs=2e-9), (layer, metric, variant)


def test_the_input_is_the_first_layer_and_every_run_says_how_it_was_computed(images: Tensor) -> None:
    table = stability(net().eval(), [images], perturbations("shift:1"), layers=["0", "2"])
    layers = table.frame.drop_duplicates("layer")
    assert layers["layer"].tolist() == ["input", "0", "2"]
    assert layers["order"].iloc[0] == 0
    assert layers["order"].is_monotonic_increasing
    assert table.provenance["run"]["analysis"] == "stability"
    assert table.provenance["run"]["parameters"]["statistic"] == "mean"


@pytest.mark.parametrize("progress", [True, False])
def test_a_progress_bar_is_shown_if_asked_for(
    images: Tensor,
    progress: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stability(net().eval(), [images], perturbations("shift:1"), run="shifts", progress=progress)
    assert ("shifts" in capsys.readouterr().err) == progress


def test_a_data_set_is_read_in_batches_of_64_images(images: Tensor) -> None:
    sizes: list[int] = []
    model = nn.Sequential(nn.Flatten())
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    repeated = torch.rand(70, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    stability(model, TensorDataset(repeated), perturbations("shift:1"))
    assert 128 in sizes
    assert 12 in sizes
    assert max(sizes) == 128  # images and their perturbed versions


@pytest.mark.parametrize("n", range(1, 8))
def test_the_median_is_that_of_numpy_for_odd_and_even_numbers(n: int) -> None:
    values = torch.rand(n, 5, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    np.testing.assert_array_equal(_median(values).numpy(), np.median(values.numpy(), axis=0))


def test_parameters_are_stored_as_json_values_and_others_as_text() -> None:
    kept = {"none": None, "text": "diffeo", "count": 3, "share": 0.5, "flag": True, "nested": {"cut": 3}}
    assert _json_values(kept | {"path": PurePosixPath("a/b"), "pair": (1, 2)}) == kept | {"path": "a/b", "pair": "(1, 2)"}


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_channels_last_memory_changes_no_number(images: Tensor, statistic: str) -> None:
    shift = perturbations(["shift:1"])
    tables = [
        stability(net().to(memory_format=layout), [images.to(memory_format=layout)], shift, statistic=statistic)  # type: ignore[arg-type, call-overload]
        for layout in (torch.contiguous_format, torch.channels_last)
    ]
    np.testing.assert_allclose(tables[0].frame["value"], tables[1].frame["value"], rtol=1e-4)

"""Stability from specifications: the command line, twins, checkpoints, and the real resnet20."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from torch import nn

from probes.errors import UsageError
from repanalysis.analyses.stability import twins
from repanalysis.analyses.stability.twins import stability_runs
from repanalysis.inputs.models import load_model
from repanalysis.networks.shuffling import shuffled_channels

NET = "py:repanalysis.networks.digits_cnn:digits_cnn"


def test_runs_are_named_by_model_and_checkpoint(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for name in ("one", "two"):
        save_file(load_model(NET).module.state_dict(), tmp_path / f"{name}.safetensors")
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    table = stability_runs(NET, "digits", "shift:1", weights=files, limit=20)
    assert list(table.provenance) == ["digits_cnn one", "digits_cnn two"]
    pair = stability_runs([NET, NET], "digits", "shift:1", limit=20)
    assert list(pair.provenance) == ["digits_cnn", "digits_cnn'"]
    with pytest.raises(UsageError, match="3 models and 2 weights"):
        stability_runs([NET] * 3, "digits", "shift:1", weights=files)


def test_results_depend_on_the_seed(tmp_path: Path) -> None:
    a, b, c = (
        stability_runs(
            NET, "digits", ["diffeo:0.8", "noise:match=diffeo"], weights="random", limit=30, seed=seed, batch_size=size
        )
        for seed, size in ((0, 30), (0, 7), (1, 30))
    )
    np.testing.assert_allclose(a.frame["value"], b.frame["value"], rtol=1e-4)  # summation order depends on the batches
    assert not np.allclose(a.frame["value"], c.frame["value"], rtol=1e-2)


def test_resnet20_is_more_stable_to_deformations_than_to_noise(real_data: Path) -> None:
    weights = real_data / "weights" / "resnet20-12fca82f.th"
    table = stability_runs(
        "py:tests.networks.cifar_resnet:resnet20",
        f"imagefolder:{real_data}/cifar10/val.tar.gz",
        ["diffeo:delta=1,c=3", "noise:match=diffeo"],
        weights=weights, init=2, limit=150, layers=["layer?.?.relu2", "linear"],
    )  # fmt: skip

    def curve(run: str, metric: str, label: str = "diffeo") -> dict[str, float]:
        frame = table.select(run=run, metric=metric, variant="", perturbation=label).frame
        return dict(zip(frame["layer"], frame["value"], strict=True))

    trained, init = curve("resnet20", "relative_stability"), curve("resnet20, init", "relative_stability")
    assert trained["input"] == pytest.approx(1, abs=1e-10)
    assert trained["linear"] < 0.35 < 0.5 < init["linear"]
    assert min(value for layer, value in init.items() if layer != "linear") > 0.6
    sensitive = curve("resnet20", "sensitivity")
    assert sensitive["linear"] < 0.6 * sensitive["layer1.1.relu2"]
    noisy = curve("resnet20", "sensitivity", "noise:match=diffeo")
    assert noisy["linear"] > 5 * noisy["input"]


def test_a_deterministic_factory_has_no_random_initialisation(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    import repanalysis.networks.digits_cnn as module

    def fixed() -> torch.nn.Module:
        torch.manual_seed(5)
        return module.digits_cnn()

    monkeypatch.setattr(module, "fixed", fixed, raising=False)
    with pytest.raises(UsageError, match="the same weights for every seed"):
        stability_runs("py:repanalysis.networks.digits_cnn:fixed", "digits", "shift:1", init=1, limit=10)


def test_the_seeds_of_initialisations_and_shuffles_are_recorded_and_reproduce_them() -> None:
    import torch

    from repanalysis.analyses.stability.sensitivity import stability
    from repanalysis.inputs.data import load_data
    from repanalysis.inputs.models import load_model
    from repanalysis.perturbations import perturbations

    spec, seed = "py:repanalysis.networks.digits_cnn:digits_cnn", 3
    options = {"layers": "*", "batch_size": 20}
    table = stability_runs(spec, "digits", "shift:1", weights="random", init=1, shuffled=1, limit=20, seed=seed, **options)
    runs = table.provenance[next(run for run in table.provenance if run.endswith(", init"))]["geometric_mean_of"]
    (about,) = runs.values()
    assert about["init_seed"] == seed + 1
    torch.manual_seed(about["init_seed"])
    model = load_model(spec, weights="random")
    assert model.card["weights_sha256"] == about["weights_sha256"]
    samples = load_data("digits", transform=model.transform, colours=1).sample(20, seed=seed)
    again = stability(
        model.module, samples.loader(20), perturbations("shift:1", seed=seed), layers="*", batch_norm="batch", run="again"
    )
    expected = again.select(metric="sensitivity", variant="").frame["value"].to_numpy()
    values = table.frame[table.frame["run"].str.endswith(", init")].query("metric == 'sensitivity' and variant == ''")["value"]
    assert values.to_numpy() == pytest.approx(expected, rel=1e-6)
    (shuffle,) = table.provenance[next(run for run in table.provenance if run.endswith(", shuffled"))][
        "geometric_mean_of"
    ].values()
    assert shuffle["shuffle_seed"] == seed


def test_the_parts_compare_initialisations_shuffled_copies_and_the_network() -> None:
    """spatial = ln S(init) - ln S(shuffled), channel = ln S(shuffled) - ln S(network), of the means in the same table."""
    table = stability_runs(NET, "digits", "shift:1", weights="random", init=1, shuffled=2, limit=20)
    runs = ["digits_cnn random", "digits_cnn random, init", "digits_cnn random, shuffled"]
    logs = [np.log(table.select(run=run, metric="sensitivity", variant="").frame["value"].to_numpy()) for run in runs]
    parts = table.select(run=f"{runs[0]}, parts")
    for metric, expected in (("spatial_pooling", logs[1] - logs[2]), ("channel_pooling", logs[2] - logs[0])):
        values = parts.select(metric=metric).frame["value"].to_numpy()
        assert np.abs(values[1:]).max() > 0
        np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-12)


def test_three_runs_of_one_model_have_three_names() -> None:
    table = stability_runs([NET, NET, NET], "digits", "shift:1", limit=4)
    assert list(table.provenance) == ["digits_cnn", "digits_cnn'", "digits_cnn''"]


@pytest.mark.parametrize("options", [{}, {"seed": 5}])
def test_the_provenance_names_the_seed_of_every_shuffled_copy(options: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def recorded(network: nn.Module, *, seed: int) -> nn.Module:
        seeds.append(seed)
        return shuffled_channels(network, seed=seed)

    monkeypatch.setattr(twins, "shuffled_channels", recorded)
    table = stability_runs(NET, "digits", "shift:1", weights="random", shuffled=3, limit=10, **options)
    copies = table.provenance["digits_cnn random, shuffled"]["geometric_mean_of"]
    assert [run["shuffle_seed"] for run in copies.values()] == seeds
    assert seeds == [options.get("seed", 0) + number for number in range(3)]

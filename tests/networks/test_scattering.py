"""Scattering: a plain version of the definition, energy, contraction and shifts, and recording by probes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import probes
from probes.errors import UsageError
from repanalysis.inputs.models import load_model
from repanalysis.networks.filtering import padded_side
from repanalysis.networks.scattering import Scattering, low_frequencies, modulus_of, phases_of
from repanalysis.networks.wavelets import bank


def plain(x: np.ndarray, scales: int, angles: int, name: str, *, tight: bool, phases: int) -> np.ndarray:
    """S_0, S_1, S_2 of one image, path by path, from the definition."""
    shape = tuple(padded_side(side, scales) for side in x.shape)
    filters = bank(name, shape, scales, angles, tight=tight)  # type: ignore[arg-type]
    before = [(length - side) // 2 for length, side in zip(shape, x.shape, strict=True)]
    padded = np.pad(x, [(b, length - side - b) for b, length, side in zip(before, shape, x.shape, strict=True)], mode="reflect")

    def convolved(u: np.ndarray, wavelet: np.ndarray, level: int, to: int) -> np.ndarray:
        step = 2 ** (to - level)
        return np.fft.ifft2(np.fft.fft2(u) * low_frequencies(wavelet, level))[::step, ::step]

    def rectified(z: np.ndarray) -> list[np.ndarray]:
        return [np.abs(z)] if not phases else [np.maximum(part, 0) for part in (z.real, z.imag, -z.real, -z.imag)]

    def averaged(u: np.ndarray, level: int) -> np.ndarray:
        return convolved(u, filters.phi, level, scales).real[1:-1, 1:-1]

    first = [(j, u) for j in range(scales) for psi in filters.psi[j] for u in rectified(convolved(padded, psi, 0, j))]
    second = [
        averaged(v, k)
        for j, u in first
        for k in range(j + 1, scales)
        for psi in filters.psi[k]
        for v in rectified(convolved(u, psi, j, k))
    ]
    return np.array([averaged(padded, 0), *(averaged(u, j) for j, u in first), *second])


@pytest.mark.parametrize(
    ("size", "scales", "angles", "name", "tight", "phases"),
    [
        ((16, 16), 2, 8, "morlet", False, 0),
        ((19, 14), 2, 3, "morlet", False, 4),
        ((17, 24), 3, 2, "morlet", True, 0),
        ((16, 16), 3, 2, "steerable", False, 4),
        ((8, 8), 3, 2, "morlet", False, 0),
    ],
)
@pytest.mark.parametrize("path", ["fft", "matrix"])
def test_it_agrees_with_the_definition(
    size: tuple[int, int], scales: int, angles: int, name: str, *, tight: bool, phases: int, path: str, rng: np.random.Generator
) -> None:
    x = rng.normal(size=(2, 2, *size))
    network = Scattering(scales, angles, phases=phases, filters=name, tight=tight, path=path)  # type: ignore[arg-type]
    output = network(torch.from_numpy(x)).numpy().reshape(2, 2, -1, size[0] // 2**scales, size[1] // 2**scales)
    for image in range(2):
        for colour in range(2):
            expected = plain(x[image, colour], scales, angles, name, tight=tight, phases=phases)
            np.testing.assert_allclose(output[image, colour], expected, atol=1e-12)


@pytest.mark.parametrize(("order", "phases", "channels"), [(1, 0, 25), (2, 0, 217), (1, 4, 97), (2, 4, 3169)])
def test_the_number_of_channels(order: int, phases: int, channels: int) -> None:
    assert Scattering(3, order=order, phases=phases)(torch.zeros(1, 1, 16, 20)).shape == (1, channels, 2, 2)


def test_four_phases_have_the_energy_of_the_modulus(rng: np.random.Generator) -> None:
    z = torch.from_numpy(rng.normal(size=(3, 5, 4, 4, 2)))
    modulus, phases = modulus_of(z), phases_of(z).view(3, 5, 4, 4, 4)
    torch.testing.assert_close(phases.square().sum(2), modulus.square())
    mean = phases.mean(2)
    assert ((modulus / 4 - 1e-12 <= mean) & (mean <= modulus * (2**0.5 / 4) + 1e-12)).all()
    assert (phases >= 0).all()
    out = torch.empty(3, 20, 4, 4, dtype=z.dtype)
    torch.testing.assert_close(phases_of(z, out), phases.flatten(1, 2))


def test_a_constant_image_has_only_its_average() -> None:
    output = Scattering(2)(torch.full((1, 1, 16, 16), 0.7, dtype=torch.float64))[0]
    torch.testing.assert_close(output[0], torch.full((4, 4), 0.7, dtype=torch.float64))
    assert output[1:].abs().max() < 1e-12


@pytest.mark.parametrize("phases", [0, 4])
def test_tight_scattering_contracts(phases: int, rng: np.random.Generator) -> None:
    """||Sx - Sy|| <= ||x - y||, of padded images and coefficients weighted by the 4^J pixels per coefficient."""
    network = Scattering(2, phases=phases, filters="steerable")
    for _ in range(10):
        x, y = torch.from_numpy(rng.normal(size=(2, 1, 1, 24, 24)))
        distance = (network(x) - network(y)).square().sum() * 4**2
        padded = np.pad((x - y)[0, 0].numpy(), 4, mode="reflect")
        assert float(distance) <= np.square(padded).sum()


def test_coefficients_scale_with_the_image(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(1, 1, 20, 20)))
    torch.testing.assert_close(Scattering(2)(3 * x), 3 * Scattering(2)(x))


def test_colours_are_transformed_separately(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(2, 3, 16, 16)))
    network = Scattering(2)
    torch.testing.assert_close(network(x), torch.cat([network(x[:, [colour]]) for colour in range(3)], dim=1))


def test_sizes_types_and_batches_may_change_from_call_to_call(rng: np.random.Generator) -> None:
    network = Scattering(2)
    x = torch.from_numpy(rng.normal(size=(4, 1, 16, 16)))
    first = network(x)
    assert network(x[:, :, :, :13].float()).dtype == torch.float32
    torch.testing.assert_close(network(x[1:2]), first[1:2])
    assert network((x * 10).int()).shape == first.shape


def test_gradients_reach_the_image(rng: np.random.Generator) -> None:
    for phases in (0, 4):
        x = torch.from_numpy(rng.normal(size=(1, 1, 8, 8))).requires_grad_()
        assert torch.autograd.gradcheck(Scattering(2, 2, phases=phases, path="fft"), x)


def test_probes_record_every_scale() -> None:
    batch = next(iter(probes.capture(Scattering(2, 4), [torch.rand(3, 1, 16, 16)])))
    assert list(batch.layers) == [
        "average.order0", "order1.0", "average.order1_0", "order2.0_1", "average.order2_0_1", "order1.1",
        "average.order1_1", "features",
    ]  # fmt: skip
    assert batch.layers["order2.0_1"].shape == (3, 16)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Scattering(3)(torch.zeros(1, 1, 7, 9)), "can't be scattered over J = 3 scales"),
        (lambda: Scattering(3)(torch.zeros(1, 16, 16)), "can't be scattered"),
        (lambda: Scattering(phases=2), "phases 4"),
        (lambda: Scattering(order=3), "order is 1 or 2"),
        (lambda: Scattering(0), "J = 0 scales"),
        (lambda: Scattering(filters="haar"), "Unknown filters 'haar'"),
        (lambda: load_model("scattering:J=3,LL=8"), "Unknown parameter of scattering 'LL'. Did you mean 'L'"),
        (lambda: load_model("scattering:J=x"), "J of scattering is 'x'; it must be a whole number"),
        (lambda: load_model("scattering:J"), "is not a parameter; write key=value"),
    ],
)
def test_invalid_parameters_have_one_sentence_errors(make: object, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        make()  # type: ignore[operator]


def test_a_specification_builds_it() -> None:
    network = load_model("scattering:J=2,L=4,phases=4,tight=true").module
    assert isinstance(network, Scattering)
    assert (network.scales, network.angles, network.phases, network.tight) == (2, 4, 4, True)
    assert isinstance(load_model("scattering:").module, Scattering)

"""Filtering: the two paths agree with a plain circular convolution, padding included."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repanalysis.networks.filtering import Filtering, identity, padded_side, reflected, spectrum_of
from repanalysis.networks.wavelets import morlet


def plain(x: np.ndarray, filters: np.ndarray, stride: int, margin: int) -> np.ndarray:
    """The definition: reflect, convolve circularly, take every k-th sample, crop."""
    extra = [filters.shape[1 + axis] - x.shape[axis] for axis in (0, 1)]
    padded = np.pad(x, [(padding // 2, padding - padding // 2) for padding in extra], mode="reflect")
    z = np.fft.ifft2(np.fft.fft2(padded) * filters)[:, ::stride, ::stride]
    return z[:, margin : z.shape[1] - margin, margin : z.shape[2] - margin]


@pytest.mark.parametrize("path", ["fft", "matrix"])
@pytest.mark.parametrize("size", [(8, 8), (9, 14), (32, 5)])
@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
def test_both_paths_agree_with_the_definition(
    path: str, size: tuple[int, int], kind: torch.dtype, rng: np.random.Generator
) -> None:
    filters = morlet((padded_side(size[0], 2), padded_side(size[1], 2)), 2).psi[1]
    x = rng.normal(size=(2, 3, *size))
    module = Filtering()
    module.prepare(filters, torch.from_numpy(x).to(kind), stride=4, size=size, margin=1, path=path)  # type: ignore[arg-type]
    output = torch.view_as_complex(module.filtered(torch.from_numpy(x).to(kind), identity).contiguous()).numpy()
    assert output.shape[:3] == (2, 3, 8)
    for image in range(2):
        for colour in range(3):
            expected = plain(x[image, colour], filters, 4, 1)
            np.testing.assert_allclose(output[image, colour], expected, atol=1e-12 if kind == torch.float64 else 1e-5)


def test_small_images_use_the_matrix_and_large_ones_the_fft() -> None:
    for side, matrix in ((8, True), (64, False)):
        module, padded = Filtering(), padded_side(side, 1)
        module.prepare(morlet((padded, padded), 1).psi[0], torch.zeros(1), stride=2, size=(side, side))
        assert bool(module.matrix.numel()) is matrix


def test_filters_are_not_in_the_state_dictionary_and_follow_the_module() -> None:
    module = Filtering()
    module.prepare(morlet((10, 10), 1).psi[0], torch.zeros(1), size=(4, 4))
    assert not module.state_dict()
    assert module.to(torch.float64).weights.dtype == torch.float64


def test_filtering_in_parts_gives_the_same_result(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(300, 1, 40, 40)).astype(np.float32))
    module = Filtering()
    module.prepare(morlet((48, 48), 1).psi[0], x, stride=2, size=(40, 40), path="fft")
    expected = module.filtered(x, identity)
    torch.testing.assert_close(expected[:1], module.filtered(x[:1], identity))
    torch.testing.assert_close(expected[-1:], module.filtered(x[-1:], identity))
    x.requires_grad_()
    torch.testing.assert_close(module.filtered(x, identity), expected, rtol=1e-5, atol=1e-6)


def test_gradients_are_those_of_a_linear_map(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(1, 2, 6, 7))).requires_grad_()
    for path in ("fft", "matrix"):
        module = Filtering()
        module.prepare(morlet((10, 10), 1).psi[0][:2], x, stride=2, size=(6, 7), path=path)  # type: ignore[arg-type]
        assert torch.autograd.gradcheck(lambda image, m=module: m.filtered(image, identity), x)


@pytest.mark.parametrize("size", [(5, 6), (4, 7), (1, 1), (2, 2), (3, 1)])
def test_the_mirrored_half_of_a_spectrum(size: tuple[int, int], rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.normal(size=(2, 3, *size)))
    torch.testing.assert_close(spectrum_of(x), torch.fft.fft2(x))


@pytest.mark.parametrize(("side", "padded"), [(8, 12), (7, 10), (8, 24), (5, 16), (2, 6)])
def test_reflection_agrees_with_numpy(side: int, padded: int) -> None:
    before = (padded - side) // 2
    np.testing.assert_array_equal(reflected(side, padded), np.pad(np.arange(side), (before, padded - side - before), "reflect"))


def test_a_signal_of_one_sample_is_repeated() -> None:
    assert reflected(1, 4).tolist() == [0, 0, 0, 0]

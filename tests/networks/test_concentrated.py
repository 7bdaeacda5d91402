"""S_T, S_P, S_C: exact frames, tied synthesis, blocks against the definition, and the sizes of the published networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

import probes
from probes.errors import UsageError
from repanalysis.inputs.models import load_model
from repanalysis.networks.concentrated import Block, ChannelNorm, RectifiedWavelets, TightFrame, concentrated, frames, polar
from repanalysis.networks.wavelets import morlet


def test_the_defaults_have_the_published_number_of_parameters() -> None:
    """CIFAR S_C by the formulas of the published code: P 5.683 M, F 5.571 M, classifier 0.0215 M (specification, 4.6)."""
    with torch.device("meta"):
        network = concentrated()
    sizes = {name: frame.weight.numel() for name, frame in frames(network).items()}
    assert sum(size for name, size in sizes.items() if "projection" in name) == pytest.approx(5.683e6, abs=500)
    assert sum(size for name, size in sizes.items() if "analysis" in name) == pytest.approx(5.571e6, abs=500)
    assert sum(p.numel() for part in (network.classifier, network.norm) for p in part.parameters()) == pytest.approx(
        21500, abs=50
    )


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (32, 32)])
def test_rectified_wavelets_agree_with_the_definition(size: tuple[int, int], rng: np.random.Generator) -> None:
    x = rng.normal(size=(1, 2, *size))
    output = RectifiedWavelets(4)(torch.from_numpy(x)).numpy().reshape(2, 17, size[0] // 2, size[1] // 2)
    shape = tuple(2 * ((side + 2) // 2 + 1) for side in size)
    filters = morlet(shape, 1, 4)  # type: ignore[arg-type]
    for colour in range(2):
        before = [(length - side) // 2 for length, side in zip(shape, size, strict=True)]
        padded = np.pad(x[0, colour], [(b, o - s - b) for b, o, s in zip(before, shape, size, strict=True)], mode="reflect")
        spectrum = np.fft.fft2(padded)
        expected = [np.fft.ifft2(spectrum * filters.phi).real]
        for wavelet in filters.psi[0]:
            z = np.fft.ifft2(spectrum * wavelet)
            expected += [np.maximum(part, 0) for part in (z.real, z.imag, -z.real, -z.imag)]
        np.testing.assert_allclose(output[colour], np.array(expected)[:, ::2, ::2][:, 1:-1, 1:-1], atol=1e-12)


def test_a_block_agrees_with_its_formula(rng: np.random.Generator) -> None:
    block = Block(2, 6, 18, angles=2).eval().double()
    x = torch.from_numpy(rng.normal(size=(3, 2, 12, 12)))
    with torch.no_grad():
        u = block.wavelets(x)
        u = u / torch.sqrt(torch.tensor(1.0 + 1e-5, dtype=u.dtype))  # batch norm with its initial statistics
        p, f = block.projection.matrix.weight, block.analysis.weight
        v = torch.einsum("dc,ncij->ndij", p, u)
        v = v / v.norm(dim=1, keepdim=True)
        c = torch.einsum("pd,ndij->npij", f, v)
        expected = torch.einsum("pd,npij->ndij", f, c.sign() * (c.abs() - 1.5 / 18**0.5).clamp_min(0))
        torch.testing.assert_close(block(x), expected)


def test_synthesis_is_tied_and_counted_once() -> None:
    block = Block(2, 6, 18)
    assert [name for name, _ in block.named_parameters()] == ["projection.matrix.weight", "analysis.weight"]
    block(torch.rand(2, 2, 8, 8)).sum().backward()
    u = torch.rand(1, 18, 1, 1)
    with torch.no_grad():
        block.analysis.weight.mul_(2.0)
        torch.testing.assert_close(block.synthesis(u)[0, :, 0, 0], block.analysis.weight.T @ u[0, :, 0, 0])


def test_concentration_with_threshold_0_is_the_identity(rng: np.random.Generator) -> None:
    block = Block(1, 5, 20).double()
    block.threshold.lambd = 0.0
    x = torch.from_numpy(rng.normal(size=(2, 5, 3, 3)))
    torch.testing.assert_close(block.synthesis(block.threshold(block.analysis(x))), x, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(20, 7), (7, 20), (9, 9)])
def test_polar_agrees_with_the_nearest_orthonormal_matrix(shape: tuple[int, int], rng: np.random.Generator) -> None:
    for distance in (1e-3, 0.1, 3.0):
        a = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
        matrix = (a[0] * (1 + distance * rng.random(min(shape)))) @ a[2]
        result = polar(torch.from_numpy(matrix)).numpy()
        np.testing.assert_allclose(result, a[0] @ a[2], atol=1e-6)


def test_polar_is_exact_to_float_precision() -> None:
    a = polar(torch.randn(512, 128, generator=torch.Generator().manual_seed(0)))
    assert TightFrame(128, 512).deviation() < 1e-6
    assert float((a.double().T @ a.double() - torch.eye(128)).abs().max()) < 2e-6


@pytest.mark.parametrize("shape", [(4, 12), (12, 4)])
def test_frames_stay_tight_throughout_training(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    frame = TightFrame(*shape)
    optimizer = torch.optim.SGD(frame.parameters(), 0.3, momentum=0.9)
    x = torch.randn(16, shape[0], 2, 2)
    for _ in range(50):
        optimizer.zero_grad()
        torch.nn.Softshrink(0.3)(frame(x)).square().sum().mul(0.01).backward()
        optimizer.step()
        frame.constrain()
        assert frame.deviation() < 1e-5


def test_the_parseval_step_changes_singular_values_by_its_formula(rng: np.random.Generator) -> None:
    for shape in ((12, 4), (4, 12)):
        frame = TightFrame(shape[1], shape[0], "parseval").double()
        left, _, right = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
        s = np.array([0.1, 0.5, 1.0, 2.0])
        with torch.no_grad():
            frame.weight.copy_(torch.from_numpy(left * s @ right))
        frame.constrain()
        expected = s * (1 + 5e-4 - 5e-4 * s**2)  # specification, 4.4
        np.testing.assert_allclose(frame.weight.detach().numpy(), left * expected @ right, atol=1e-14)


def test_parseval_frames_have_rows_of_equal_norm() -> None:
    rows = TightFrame(4, 12, "parseval").matrix().norm(dim=1)
    torch.testing.assert_close(rows, torch.full((12,), (4 / 12) ** 0.5))


def test_zero_vectors_stay_zero() -> None:
    x = torch.tensor([[0.0, 3.0], [0.0, 4.0]])[None, :, None]
    torch.testing.assert_close(ChannelNorm()(x)[0, :, 0], torch.tensor([[0.0, 0.6], [0.0, 0.8]]))


@pytest.mark.parametrize("variant", ["ST", "SP", "SC"])
def test_every_variant_has_gradients_in_all_layers(variant: str) -> None:
    torch.manual_seed(0)
    network = load_model(f"scattering:variant={variant},J=2,L=2,width=4,redundancy=2,size=9,colours=1,classes=3").module.train()
    loss = functional.cross_entropy(network(torch.rand(8, 1, 9, 9)), torch.arange(8) % 3)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in network.parameters())
    assert (len(frames(network)), bool(network.pretrained_cfg)) == ({"ST": 1, "SP": 2, "SC": 4}[variant], True)


def test_probes_record_every_step_of_every_scale() -> None:
    network = concentrated(scales=2, angles=2, width=4, redundancy=2, size=8)
    names = list(next(iter(probes.capture(network, [torch.rand(2, 3, 8, 8)]))).layers)
    steps = ["wavelets", "projection.norm", "projection.matrix", "projection.unit", "analysis", "threshold", "synthesis"]
    assert names == [f"block{j}.{step}" for j in (1, 2) for step in steps] + ["norm", "flatten", "classifier"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("variant=SX", "Unknown variant 'SX'"),
        ("variant=SC,wdith=3", "Unknown parameter of scattering 'wdith'. Did you mean 'width'"),
        ("variant=SC,J=6", r"Images of 32 pixels can't go through J = 6 scales: at least 2\^J = 64 are needed"),
        ("variant=SC,width=0", "must be at least 1"),
        ("variant=SC,constraint=exact", "Unknown constraint 'exact'"),
        ("variant=SC,threshold=0", "threshold is 0.0; it must be a finite number above 0"),
        ("variant=SC,J=2,J=3", "J of scattering is given twice"),
    ],
)
def test_invalid_specifications_have_one_sentence_errors(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        load_model(f"scattering:{text}")


def test_images_that_are_too_small_have_one_sentence_errors() -> None:
    with pytest.raises(UsageError, match="1 x 1 pixels have no wavelets"):
        RectifiedWavelets()(torch.zeros(1, 1, 1, 1))

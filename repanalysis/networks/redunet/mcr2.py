r"""`MaximalCodingRateReduction`: the rate reduction as a loss, for networks trained by back-propagation.

    loss = -Delta R = R_c - R,   R = 1/2 log det(I + b S),   R_c = sum_k g_k 1/2 log det(I + b S_k),   b = d / eps^2,

S = Z^T Z / n of features of norm 1, S_k the same of class k, g_k = n_k / n. A loss below 0 is normal: it is -Delta R. Its least
value for K orthogonal subspaces of a batch is in docs/rate_reduction.md.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from probes.errors import DataError
from repanalysis._checks import positive

__all__ = ["MaximalCodingRateReduction"]

_SMALLEST = 1e-8


class MaximalCodingRateReduction(nn.Module):
    r"""-Delta R of a batch of features and labels.

    Parameters
    ----------
    eps_sq : float, default 0.5
        Squared distortion eps^2. The published code calls it `eps`.
    gamma_inside, gamma_outside : float, default 1
        The published code's gam1 and gam2: -gam2 / 2 log det(I + gam1 b S) + R_c. With 1 and 1 it is -Delta R.
    normalize : bool, default True
        Scale every sample to norm 1 first. Without normalisation the loss falls without bound as features grow.

    Raises
    ------
    UsageError
        If a parameter is not above 0.
    DataError
        When called, if features are not (n, ...) with n labels, labels are negative, or the loss is not finite.

    Notes
    -----
    **Batch size.** S and S_k are estimated from the batch: with n_k samples S_k has at most rank n_k, so that R_c is too small
    and Delta R of random features is positive, about (d + d^2)(K - 1) / (4 n (1 + eps^2)^2) for isotropic ones. Take batches of
    several times K d samples; the original has 1,000 for d = 128 and K = 10. Losses of different batch sizes do not compare,
    and the mean over batches is not the loss of all samples. A class without samples in a batch has no term.
    **Precision.** Half precision is computed in float32, other types as they are. Cholesky factors of the smaller of the n x n
    and d x d matrices; no (K, n, n) array.

    References
    ----------
    Y. Yu et al., "Learning diverse and discriminative representations via the principle of maximal coding rate
    reduction", NeurIPS 2020.

    Examples
    --------
    >>> loss = MaximalCodingRateReduction(eps_sq=0.1)
    >>> round(float(loss(torch.eye(2, dtype=torch.float64), torch.tensor([0, 1]))), 6)
    -0.875634
    """

    def __init__(
        self, eps_sq: float = 0.5, *, gamma_inside: float = 1.0, gamma_outside: float = 1.0, normalize: bool = True
    ) -> None:
        super().__init__()
        self.eps_sq = positive("eps_sq", eps_sq)
        self.gamma_inside = positive("gamma_inside", gamma_inside)
        self.gamma_outside = positive("gamma_outside", gamma_outside)
        self.normalize = normalize

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """The loss, a scalar, in nats per sample."""
        whole, classes = self.rates(features, labels)
        return classes - self.gamma_outside * whole

    def rates(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """R (with gamma_inside) and R_c of a batch, with gradients."""
        if features.ndim < 2 or labels.shape != features.shape[:1] or not len(features):
            raise DataError(
                f"Features have shape {tuple(features.shape)} and labels {tuple(labels.shape)}; (n, ...) and (n,) are needed."
            )
        if labels.is_floating_point() or labels.is_complex() or int(labels.min()) < 0:
            raise DataError("Labels are integers, 0 or above; leave out samples without a label.")
        z = features.flatten(1)
        if z.dtype in (torch.float16, torch.bfloat16):
            z = z.float()
        if self.normalize:
            z = functional.normalize(z, dim=1, eps=_SMALLEST)
        b, n = z.shape[1] / self.eps_sq, len(z)
        whole = _rate(z, self.gamma_inside * b / n)
        classes = z.new_zeros(())
        for label in torch.unique(labels):
            members = z[labels == label]
            classes = classes + len(members) / n * _rate(members, b / len(members))
        if not torch.isfinite(whole + classes):
            raise DataError("The coding rate is not finite: features hold NaN or infinite values. Lower the learning rate.")
        return whole, classes

    def extra_repr(self) -> str:
        """Its parameters."""
        return f"eps_sq={self.eps_sq:g}, gamma_inside={self.gamma_inside:g}, gamma_outside={self.gamma_outside:g}"


def _rate(z: Tensor, factor: float) -> Tensor:
    """1/2 log det(I + f Z^T Z), on the smaller side; NaN if it can't be factorised."""
    inner = factor * (z @ z.T if len(z) < z.shape[1] else z.T @ z)
    identity = torch.eye(len(inner), dtype=z.dtype, device=z.device)
    lower, failed = torch.linalg.cholesky_ex(identity + inner)
    if failed:
        return z.sum() * float("nan")
    rate: Tensor = lower.diagonal().log().sum()
    return rate

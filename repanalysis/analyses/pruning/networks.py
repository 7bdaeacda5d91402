r"""A whole network pruned by what its filters serve, convolutions included, and trained again for a moment.

A convolution, or a linear layer, from filters f to filters g keeps the weights between those that serve a label in common,

    keep[g, f] = 1 where D_g and D_f share a label,       D_f = {l : B^f[l, l] = 1},

with B^f from activations as the next layer sees them: after normalisation, nonlinearity, pooling and shortcuts. The last
layer's outputs serve one label each, themselves. Masks hold after every step of training; what is not pruned is frozen,
statistics of batch norms too (docs/filter_clusters.md, Formulas; Y. Tzach et al., Physical Review E 111, 2025).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from annotated_doc import Doc
from annotated_types import Ge
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from probes.errors import DataError, LeftOutWarning, UsageError
from probes.patterns import Patterns
from repanalysis.analyses.declaration import Result, analysis
from repanalysis.analyses.filters.measures import class_means
from repanalysis.analyses.pruning.applying import kept_masked, masked, multiplications
from repanalysis.analyses.pruning.chains import OUTPUT, Link, hooked, links
from repanalysis.analyses.pruning.masks import ThetasOption, conv_mask, random_alike
from repanalysis.heads.clusters import ClusterOptions, clusters_of
from repanalysis.heads.fitting import HeadOptions
from repanalysis.heads.scoring import above_chance
from repanalysis.specs import Read
from repanalysis.statistics.draws import fitted_on
from repanalysis.statistics.shares import share_error
from repanalysis.table import Table
from repanalysis.training.epochs import Images, TrainConfig, accuracy, train_epoch

__all__ = ["RETRAINING", "UntrainedWarning", "cluster_masks", "filter_fields", "prune", "retrain"]

RETRAINING = TrainConfig(2, 100, 0.01, "constant", momentum=0.95, weight_decay=0.0)
"""How a pruned network is trained again, by default: two passes, batches of 100, rate 0.01, momentum 0.95."""


class UntrainedWarning(UserWarning):
    """A network that knows nothing of the classes."""


def filter_fields(  # numbers of one loop
    network: nn.Module,
    chain: Mapping[str, Link],
    images: Images,
    *,
    classes: int,
    places: int = 2,
    heads: HeadOptions = HeadOptions(),  # noqa: B008  # frozen
    batch_size: int = 100,
    device: str = "cpu",
    state_budget: int = 4 << 30,
    hidden: bool | None = None,
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Class means and head weights, (K, F, P) each, at the input of every layer where filters are needed.

    Parameters
    ----------
    network : torch.nn.Module
        In eval mode.
    chain : mapping of str to Link
        As `links` gives it.
    images : Images
        Training images. Heads are fitted to one half of them, drawn by id; class means are those of the other.
    classes : int
        K.
    places : int, default 2
        Maps are averaged to so many by so many places.
    heads : HeadOptions
        Solver and penalty of the heads. The network's own last layer is its own head.
    batch_size, device
        Of the pass.
    state_budget : int, default 4 GiB
        Bytes that the activations may take.
    hidden : bool, optional
        Whether progress bars are hidden; None: unless on a terminal.

    Returns
    -------
    dict of str to (means, weights)
        By name of the layer whose input it is.

    Raises
    ------
    UsageError
        If the activations don't fit into the budget.
    """
    filters = {link.name: link.before for link in chain.values()}
    filters |= {link.seen: link.after for link in chain.values() if link.seen != OUTPUT and link.seen not in filters}
    activations: dict[str, NDArray[np.float32]] = {}

    def pooled(name: str, x: Tensor) -> NDArray[np.float32]:
        if x.ndim == 4 and max(x.shape[-2:]) > places:
            x = functional.adaptive_avg_pool2d(x, places)
        fields: NDArray[np.float32] = x.float().reshape(len(x), filters[name], -1).cpu().numpy()
        return fields

    rows = [0]

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = pooled(name, args[0])
            if name not in activations:
                activations[name] = np.empty((len(images), *x.shape[1:]), np.float32)
                if (need := sum(link.nbytes for link in activations.values())) > state_budget:
                    raise UsageError(
                        f"Activations of {len(activations)} layers and {len(images):,} images take {need / 2**30:.1f} GiB or "
                        f"more, and {state_budget / 2**30:.1f} are allowed; take fewer images or fewer layers."
                    )
            activations[name][rows[0] : rows[0] + len(x)] = x

        return hook

    handles = [network.get_submodule(name).register_forward_pre_hook(keep(name)) for name in filters]
    with hooked(handles), torch.no_grad():
        parts = torch.split(torch.arange(len(images)), batch_size)
        for part in tqdm(parts, desc="activations", unit=" batches", leave=False, disable=hidden):
            network(images.batch(part)[0].to(device))
            rows[0] += len(part)
    y = images.labels.numpy()
    half = fitted_on(images.data.ids)
    fields = {}
    for name in tqdm(filters, desc="heads", unit=" layers", leave=False, disable=hidden):
        x = activations.pop(name)
        if name in chain and chain[name].seen == OUTPUT:
            own: Any = network.get_submodule(name)
            weights = own.weight.detach().double().cpu().numpy().reshape(classes, x.shape[1], -1)
        else:
            weights = heads.fit(x[half].reshape(int(half.sum()), -1), y[half], classes)
        fields[name] = (class_means(x[~half], y[~half], classes), weights.reshape(classes, *x.shape[1:]))
    return fields


def cluster_masks(
    chain: Mapping[str, Link], fields: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], options: ClusterOptions
) -> dict[str, Bool[np.ndarray, "G F"]]:
    """Which pairs of filters stay joined, by name of the layer.

    Parameters
    ----------
    chain : mapping of str to Link
        As `links` gives it.
    fields : mapping of str to (means, weights)
        As `filter_fields` gives it.
    theta : float, default 0.3
        Share of a field's largest entry above which it counts.

    Raises
    ------
    UsageError
        If theta is not in (0, 1).
    """
    serves = {name: clusters_of(*field, options, fields=False).serves for name, field in fields.items()}
    outputs = {link.name: np.eye(link.after, dtype=bool) for link in chain.values() if link.seen == OUTPUT}
    return {
        name: conv_mask(outputs[name] if name in outputs else serves[link.seen], serves[name]) for name, link in chain.items()
    }


def _of_weights(chain: Mapping[str, Link], masks: Mapping[str, NDArray[np.bool_]]) -> dict[str, Tensor]:
    """Masks of pairs of filters as masks of weights, all places of a filter alike."""
    return {
        f"{name}.weight": torch.from_numpy(np.repeat(mask, chain[name].places, axis=1) if chain[name].places > 1 else mask)
        for name, mask in masks.items()
    }


def retrain(
    network: nn.Module,
    images: Images,
    masks: Mapping[str, Tensor],
    config: TrainConfig = RETRAINING,
    *,
    device: str = "cpu",
    hidden: bool | None = None,
) -> None:
    """Train the layers of the masked weights, in place; all others are frozen, and masked weights are 0 after every step.

    Parameters
    ----------
    network : torch.nn.Module
        In eval mode from here on, so that batch norms keep their statistics.
    images : Images
        To train on.
    masks : mapping of parameter name to bool tensor
        As for `kept_masked`.
    config : TrainConfig
        How; by default two passes with rate 0.01 and momentum 0.95.
    device : str
        Where the network is.
    hidden : bool, optional
        Whether the progress bar is hidden; None: unless on a terminal.
    """
    touched = {id(value) for name in masks for value in network.get_submodule(name.rpartition(".")[0]).parameters()}
    before = {name: value.requires_grad for name, value in network.named_parameters()}
    network.eval()
    kept_masked(network, masks)
    try:
        for value in network.parameters():
            value.requires_grad_(id(value) in touched)
        moving = [value for value in network.parameters() if value.requires_grad]
        optimizer = config.optimizer_of(moving)
        for epoch in range(1, config.epochs + 1):
            train_epoch(
                network, images, optimizer, config, epoch=epoch, device=device,
                after_step=lambda: kept_masked(network, masks), hidden=hidden,
            )  # fmt: skip
    finally:
        for name, value in network.named_parameters():
            value.requires_grad_(before[name])


@analysis
def prune(  # noqa: PLR0915  # the rows of one table
    network: nn.Module,
    train: Images,
    test: Images,
    *,
    layers: Annotated[
        Patterns, Doc("Convolutions and linear layers to prune; default the last convolution and on."), Read(list, list[str])
    ] = None,
    thetas: ThetasOption = (0.3,),
    places: Annotated[int, Ge(1), Doc("Maps are averaged to so many by so many places.")] = 2,
    heads: HeadOptions = HeadOptions(),  # noqa: B008  # frozen
    controls: Annotated[int, Ge(0), Doc("Random masks of equal size, trained alike, to average over.")] = 1,
    config: TrainConfig = RETRAINING,
    run: str = "run",
    card: Mapping[str, Any] | None = None,
    device: str = "cpu",
    state_budget: int = 4 << 30,
    progress: bool | None = None,
) -> Result[nn.Module]:
    """Prune a trained network by its filters' clusters, train it again, and say what accuracy and how many products are left.

    Parameters
    ----------
    network : torch.nn.Module
        Trained; its last layer has an output per class. It is not changed.
    train, test : Images
        Masks and retraining come from the training images, accuracies from the test images.
    layers : str or sequence of str, optional
        Which convolutions and linear layers are pruned, as for `links`; by default the last convolution and what comes after
        it. Where more are pruned at once, a lower rate and more epochs are needed: batch norms are frozen.
    thetas : sequence of float, default (0.3,)
        Thresholds; higher ones keep less.
    places, heads, state_budget
        As for `filter_fields`.
    controls : int, default 1
        Random masks of equal size, trained alike, over which the control is averaged.
    config : TrainConfig
        How the pruned network is trained again; see `retrain`.
    run : str
        What the table calls the run.
    card : mapping, optional
        What identifies the network, as `models.load_model` gives it, for the table's provenance.
    device : str, default "cpu"
        Where to compute.
    progress : bool, optional
        Show progress bars; by default only on a terminal.

    Returns
    -------
    Table
        `network_accuracy` with variants "full", "full retrained" (the same layers without masks: what retraining alone does),
        "clusters masked", "clusters retrained" and "random retrained"; `strength` is the dilution, the share of the chosen
        layers' weights that are gone, `se` the standard error over test images (of several random masks: over masks).
        `kept_multiplications` is what is left of the products of the whole network; `kept_weights` and `empty_filters` are
        there per layer, with `strength` the threshold.
    dict of float to torch.nn.Module
        The retrained network per threshold, masked weights exactly 0.

    Raises
    ------
    UsageError, DataError
        If no layer can be pruned, or the network's outputs are not the images' classes.
    """
    _check(train, test, thetas)
    hidden = None if progress is None else not progress
    network = copy.deepcopy(network).to(device).eval()
    example = train.batch(torch.arange(min(4, len(train))))[0].to(device)
    chain, skipped = links(network, example, layers)
    classes = _classes(network, example, train, test)
    if skipped:
        reasons = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        warnings.warn(f"{len(skipped)} layers are not pruned: {reasons}.", LeftOutWarning, stacklevel=3)
    options: dict[str, Any] = {"batch_size": config.batch_size, "device": device}
    fields = filter_fields(
        network, chain, train, classes=classes, places=places, heads=heads, state_budget=state_budget, hidden=hidden, **options
    )
    whole = sum(multiplications(network, example[:1]).values())
    n = len(test)
    named = {"run": run, "model": str((card or {}).get("model", ""))}
    base = {**named, "layer": "network", "metric": "network_accuracy", "perturbation": "dilution", "n": n}
    rows: list[dict[str, Any]] = []
    steps = tqdm(total=2 + len(thetas) * (2 + controls), desc=run, unit=" networks", disable=hidden)

    def scored(variant: str, model: nn.Module, **more: Any) -> float:
        share = accuracy(model, test, config.batch_size, device)
        rows.append(base | {"variant": variant, "value": share, "se": share_error(share, n)} | more)
        steps.update()
        return share

    def trained(masks: Mapping[str, NDArray[np.bool_]]) -> nn.Module:
        model = copy.deepcopy(network)
        retrain(model, train, _of_weights(chain, masks), config, device=device, hidden=hidden)
        return model

    pruned: dict[float, nn.Module] = {}
    with steps:
        share = scored("full", network, strength=0.0)
        if not above_chance(share, rows[-1]["se"], classes):
            rows[-1]["note"] = f"no better than chance, {1 / classes:.3f}"
            chance = f"The network's accuracy {share:.3f} is no better than chance; give the weights of a trained one."
            warnings.warn(chance, UntrainedWarning, stacklevel=3)
        everything = {name: np.ones((link.after, link.before), bool) for name, link in chain.items()}
        scored("full retrained", trained(everything), strength=0.0)
        for theta in thetas:
            masks = cluster_masks(chain, fields, ClusterOptions(theta))
            tensors = _of_weights(chain, masks)
            common: dict[str, Any] = {"strength": 1 - _kept(chain, masks, network), "note": f"theta = {theta:g}"}
            with masked(network, tensors):
                scored("clusters masked", network, **common)
            pruned[theta] = trained(masks)
            scored("clusters retrained", pruned[theta], **common)
            drawn = []
            for seed in range(controls):
                random = {name: random_alike(mask, seed=config.seed + seed) for name, mask in masks.items()}
                drawn.append(accuracy(trained(random), test, config.batch_size, device))
                steps.update()
            if drawn:
                mean = float(np.mean(drawn))
                spread = np.std(drawn, ddof=1) / controls**0.5 if controls > 1 else (mean * (1 - mean) / n) ** 0.5
                rows.append(base | {"variant": "random retrained", "value": mean, "se": float(spread)} | common)
            left = sum(multiplications(network, example[:1], tensors).values())
            rows.append(base | {"metric": "kept_multiplications", "value": left / whole} | common)
            for order, (name, mask) in enumerate(masks.items()):
                at = {**named, "layer": name, "order": order, "perturbation": "theta", "strength": theta, "n": n}
                rows.append(at | {"metric": "kept_weights", "value": float(mask.mean())})
                rows.append(at | {"metric": "empty_filters", "value": float((~mask.any(0)).sum())})
    facts = {
        **(card or {}), "layers": list(chain), "seen": {name: link.seen for name, link in chain.items()}, "left_out": skipped,
        "train": train.data.spec, "test": test.data.spec, "n_train": len(train), "multiplications": whole,
    }  # fmt: skip
    return Result(Table.from_rows(rows, {run: facts}), pruned)


def _kept(chain: Mapping[str, Link], masks: Mapping[str, NDArray[np.bool_]], network: nn.Module) -> float:
    """Share of the chosen layers' weights that stay."""
    sizes = {name: network.get_submodule(name).weight.numel() for name in chain}  # type: ignore[operator]
    return float(sum(masks[name].mean() * size for name, size in sizes.items()) / sum(sizes.values()))


def _check(train: Images, test: Images, thetas: Sequence[float]) -> None:
    """Raise where a threshold is none, or images are trained on and scored."""
    if invalid := [theta for theta in thetas if not 0 < theta < 1]:
        raise UsageError(f"theta is {invalid[0]}; it must lie between 0 and 1.")
    same = (train.data.spec, train.data.split) == (test.data.spec, test.data.split)
    if same and np.intersect1d(train.data.ids, test.data.ids).size:
        raise UsageError(f"{train.data.spec} is trained on and scored; give other images, or another split, to score.")


def _classes(network: nn.Module, example: Tensor, train: Images, test: Images) -> int:
    """How many classes there are; a sentence where the network's outputs are others."""
    with torch.no_grad():
        outputs = network(example)
    k = int(max(train.labels.max(), test.labels.max())) + 1
    if outputs.ndim != 2 or outputs.shape[1] != k:
        raise DataError(
            f"The network gives {' x '.join(map(str, outputs.shape[1:]))} numbers per image, and the images have {k} classes; "
            f"only a network that was trained on these classes can be pruned."
        )
    missing = sorted(set(range(k)) - set(train.labels.tolist()))
    if missing:
        raise DataError(f"No training image has label {missing[0]}; masks need all {k} labels.")
    return k

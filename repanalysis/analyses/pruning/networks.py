r"""Prune a network, convolutions included, by the labels of its filters' clusters, and retrain it briefly.

A convolution or linear layer from filters f to filters g keeps the weights between filters that have a label in common,

    keep[g, f] = 1 where D_g and D_f share a label,       D_f = {l : B^f[l, l] = 1},

with B^f from activations at the input of the next layer, after normalisation, nonlinearity, pooling and shortcuts. Output l of
the last layer has label l. Masks are applied after every step of training; layers that are not pruned are frozen, and so are
the statistics of batch norms (docs/filter_clusters.md, Formulas; Y. Tzach et al., Physical Review E 111, 2025).
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
from repanalysis.analyses.pruning.applying import apply_masks, masked, multiplications
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
"""Default retraining of a pruned network: two epochs, batches of 100, rate 0.01, momentum 0.95."""


_UNTRAINED = "The network's accuracy {:.3f} is no better than chance; give the weights of a trained one."


class UntrainedWarning(UserWarning):
    """The accuracy of the network is no better than chance."""


def filter_fields(
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
    """Class means and head weights, (K, F, P) each, at every input where filters are observed.

    Parameters
    ----------
    network : torch.nn.Module
        In eval mode.
    chain : mapping of str to Link
        As `links` returns it.
    images : Images
        Training images. Heads are fitted to one half of them, drawn by id; class means are those of the other half.
    classes : int
        K.
    places : int, default 2
        Maps are averaged to `places` x `places` positions.
    heads : HeadOptions
        Solver and penalty of the heads. The head of the last layer's input is that layer.
    batch_size, device
        Of the forward pass.
    state_budget : int, default 4 GiB
        Limit on the bytes of the activations.
    hidden : bool, optional
        Whether progress bars are hidden; None hides them unless on a terminal.

    Returns
    -------
    dict of str to (means, weights)
        By name of the layer at whose input they are.

    Raises
    ------
    UsageError
        If the activations exceed the budget.
    """
    filters = {link.name: link.n_inputs for link in chain.values()}
    filters |= {
        link.observed_at: link.n_outputs
        for link in chain.values()
        if link.observed_at != OUTPUT and link.observed_at not in filters
    }
    observer = _Observer(filters, len(images), places, state_budget)
    handles = [network.get_submodule(name).register_forward_pre_hook(observer.hook(name)) for name in filters]
    with hooked(handles), torch.no_grad():
        batches = torch.split(torch.arange(len(images)), batch_size)
        for rows in tqdm(batches, desc="activations", unit=" batches", leave=False, disable=hidden):
            network(images.batch(rows)[0].to(device))
            observer.row += len(rows)
    y = images.labels.numpy()
    fit_mask = fitted_on(images.data.ids)
    fields = {}
    for name in tqdm(filters, desc="heads", unit=" layers", leave=False, disable=hidden):
        x = observer.activations.pop(name)
        if name in chain and chain[name].observed_at == OUTPUT:
            layer: Any = network.get_submodule(name)
            weights = layer.weight.detach().double().cpu().numpy().reshape(classes, x.shape[1], -1)
        else:
            weights = heads.fit(x[fit_mask].reshape(int(fit_mask.sum()), -1), y[fit_mask], classes)
        fields[name] = (class_means(x[~fit_mask], y[~fit_mask], classes), weights.reshape(classes, *x.shape[1:]))
    return fields


@dataclass
class _Observer:
    """Activations at the inputs of layers, averaged to `places` x `places` positions; `row` is the first of the next batch."""

    filters: Mapping[str, int]
    n_images: int
    places: int
    state_budget: int
    activations: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    row: int = 0

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        """A pre-hook that stores the input of a layer, (n, F, P)."""

        def store(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0]
            if x.ndim == 4 and max(x.shape[-2:]) > self.places:
                x = functional.adaptive_avg_pool2d(x, self.places)
            x = x.float().reshape(len(x), self.filters[name], -1)
            if name not in self.activations:
                self.activations[name] = np.empty((self.n_images, *x.shape[1:]), np.float32)
                self._check_budget()
            self.activations[name][self.row : self.row + len(x)] = x.cpu().numpy()

        return store

    def _check_budget(self) -> None:
        n_bytes = sum(array.nbytes for array in self.activations.values())
        if n_bytes > self.state_budget:
            raise UsageError(
                f"Activations of {len(self.activations)} layers and {self.n_images:,} images need at least "
                f"{n_bytes / 2**30:.1f} GiB; state_budget is {self.state_budget / 2**30:.1f} GiB. "
                "Use fewer images or fewer layers."
            )


def cluster_masks(
    chain: Mapping[str, Link], fields: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], options: ClusterOptions
) -> dict[str, Bool[np.ndarray, "G F"]]:
    """The pairs of filters that stay connected, by name of the layer.

    Parameters
    ----------
    chain : mapping of str to Link
        As `links` returns it.
    fields : mapping of str to (means, weights)
        As `filter_fields` returns it.
    options : ClusterOptions
        Threshold, column order and weight centring of the clusters.

    Raises
    ------
    UsageError
        If theta is not in (0, 1).
    """
    serves = {name: clusters_of(*field, options, fields=False).serves for name, field in fields.items()}
    outputs = {link.name: np.eye(link.n_outputs, dtype=bool) for link in chain.values() if link.observed_at == OUTPUT}
    return {
        name: conv_mask(outputs[name] if name in outputs else serves[link.observed_at], serves[name])
        for name, link in chain.items()
    }


def _weight_masks(chain: Mapping[str, Link], masks: Mapping[str, NDArray[np.bool_]]) -> dict[str, Tensor]:
    """Masks of pairs of filters as masks of weights, equal for all positions of a filter."""
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
    """Train the layers with masks, in place. Other layers are frozen, and masked weights are 0 after every step.

    Parameters
    ----------
    network : torch.nn.Module
        Set to eval mode, so that batch norms keep their statistics.
    images : Images
        Training images.
    masks : mapping of parameter name to bool tensor
        As for `apply_masks`.
    config : TrainConfig
        By default two epochs with rate 0.01 and momentum 0.95.
    device : str
        Device of the network.
    hidden : bool, optional
        Whether the progress bar is hidden; None hides it unless on a terminal.
    """
    trainable = {id(value) for name in masks for value in network.get_submodule(name.rpartition(".")[0]).parameters()}
    before = {name: value.requires_grad for name, value in network.named_parameters()}
    network.eval()
    apply_masks(network, masks)
    try:
        for value in network.parameters():
            value.requires_grad_(id(value) in trainable)
        parameters = [value for value in network.parameters() if value.requires_grad]
        optimizer = config.optimizer_of(parameters)
        for epoch in range(1, config.epochs + 1):
            train_epoch(
                network, images, optimizer, config, epoch=epoch, device=device,
                after_step=lambda: apply_masks(network, masks), hidden=hidden,
            )  # fmt: skip
    finally:
        for name, value in network.named_parameters():
            value.requires_grad_(before[name])


@analysis
def prune(
    network: nn.Module,
    train: Images,
    test: Images,
    *,
    layers: Annotated[
        Patterns, Doc("Convolutions and linear layers to prune; default the last convolution and on."), Read(list, list[str])
    ] = None,
    thetas: ThetasOption = (0.3,),
    places: Annotated[int, Ge(1), Doc("Maps are averaged to so many positions per side.")] = 2,
    heads: HeadOptions = HeadOptions(),  # noqa: B008  # frozen
    controls: Annotated[int, Ge(0), Doc("Number of random masks of equal size, retrained alike, to average over.")] = 1,
    config: TrainConfig = RETRAINING,
    run: str = "run",
    card: Mapping[str, Any] | None = None,
    device: str = "cpu",
    state_budget: int = 4 << 30,
    progress: bool | None = None,
) -> Result[nn.Module]:
    """Prune a trained network by its filters' clusters, retrain it, and measure accuracy and number of multiplications.

    Parameters
    ----------
    network : torch.nn.Module
        Trained, with one output per class. It is not changed.
    train, test : Images
        Masks and retraining come from the training images, accuracies from the test images.
    layers : str or sequence of str, optional
        Which convolutions and linear layers are pruned, as for `links`; by default the last convolution and the layers
        after it. To prune more at once, use a lower rate and more epochs, since batch norms are frozen.
    thetas : sequence of float, default (0.3,)
        Thresholds; higher ones keep fewer weights.
    places, heads, state_budget
        As for `filter_fields`.
    controls : int, default 1
        Number of random masks of equal size, retrained alike, over which the control is averaged.
    config : TrainConfig
        Retraining of the pruned network; see `retrain`.
    run : str
        Name of the run in the table.
    card : mapping, optional
        Identifies the network in the provenance, as `Model.card` of `load_model` does.
    device : str, default "cpu"
        Device of the computation.
    progress : bool, optional
        Show progress bars; by default only on a terminal.

    Returns
    -------
    Table
        `network_accuracy` with variants "full", "full retrained" (the same layers without masks: the effect of retraining
        alone), "clusters masked", "clusters retrained" and "random retrained"; `strength` is the dilution, the share of the
        pruned layers' weights that are masked, `se` the standard error over test images (of several random masks: over masks).
        `kept_multiplications` is the remaining share of the multiplications of the network; `kept_weights` and `empty_filters`
        are per layer, with `strength` the threshold.
    dict of float to torch.nn.Module
        The retrained network by threshold; masked weights are exactly 0.

    Raises
    ------
    UsageError, DataError
        If no layer can be pruned, or the network's outputs are not the images' classes.
    """
    _check_arguments(train, test, thetas)
    hidden = None if progress is None else not progress
    network = copy.deepcopy(network).to(device).eval()
    example = train.batch(torch.arange(min(4, len(train))))[0].to(device)
    chain, skipped = links(network, example, layers)
    classes = _classes(network, example, train, test)
    if skipped:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        warnings.warn(f"{len(skipped)} layers are not pruned: {reasons}.", LeftOutWarning, stacklevel=3)
    fields = filter_fields(
        network, chain, train, classes=classes, places=places, heads=heads, batch_size=config.batch_size, device=device,
        state_budget=state_budget, hidden=hidden,
    )  # fmt: skip
    columns = {"run": run, "model": str((card or {}).get("model", ""))}
    steps = tqdm(total=2 + len(thetas) * (2 + controls), desc=run, unit=" networks", disable=hidden)
    trial = _Trial(network, chain, train, test, config, device, hidden, columns, steps)
    n_multiplications = sum(multiplications(network, example[:1]).values())
    pruned: dict[float, nn.Module] = {}
    with steps:
        share = trial.evaluate("full", network, strength=0.0)
        if not above_chance(share, share_error(share, len(test)), classes):
            trial.rows[-1]["note"] = f"no better than chance, {1 / classes:.3f}"
            warnings.warn(_UNTRAINED.format(share), UntrainedWarning, stacklevel=3)
        all_weights = {name: np.ones((link.n_outputs, link.n_inputs), bool) for name, link in chain.items()}
        trial.evaluate("full retrained", trial.retrained(all_weights), strength=0.0)
        for theta in thetas:
            masks = cluster_masks(chain, fields, ClusterOptions(theta))
            common: dict[str, Any] = {"strength": 1 - _kept_share(chain, masks, network), "note": f"theta = {theta:g}"}
            pruned[theta] = trial.evaluate_clusters(masks, **common)
            trial.evaluate_random(masks, controls, **common)
            remaining = sum(multiplications(network, example[:1], _weight_masks(chain, masks)).values())
            trial.add("kept_multiplications", remaining / n_multiplications, **common)
            trial.add_layers(theta, masks)
    provenance = {
        **(card or {}), "layers": list(chain), "observed_at": {name: link.observed_at for name, link in chain.items()},
        "left_out": skipped,
        "train": train.data.spec, "test": test.data.spec, "n_train": len(train), "multiplications": n_multiplications,
    }  # fmt: skip
    return Result(Table.from_rows(trial.rows, {run: provenance}), pruned)


@dataclass
class _Trial:
    """The variants of one network: retrains and evaluates them, and collects the rows of the table."""

    network: nn.Module
    chain: Mapping[str, Link]
    train: Images
    test: Images
    config: TrainConfig
    device: str
    hidden: bool | None
    columns: Mapping[str, Any]
    steps: Any
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, metric: str, value: float, **columns: Any) -> None:
        """Add a row of the whole network."""
        base = {"layer": "network", "metric": metric, "perturbation": "dilution", "n": len(self.test), "value": value}
        self.rows.append({**self.columns, **base, **columns})

    def add_layers(self, theta: float, masks: Mapping[str, NDArray[np.bool_]]) -> None:
        """Add the rows of every layer for one threshold."""
        for order, (name, mask) in enumerate(masks.items()):
            base = {"layer": name, "order": order, "perturbation": "theta", "strength": theta}
            self.add("kept_weights", float(mask.mean()), **base)
            self.add("empty_filters", float((~mask.any(0)).sum()), **base)

    def accuracy_of(self, model: nn.Module) -> float:
        """Accuracy on the test images."""
        share = accuracy(model, self.test, self.config.batch_size, self.device)
        self.steps.update()
        return share

    def evaluate(self, variant: str, model: nn.Module, **columns: Any) -> float:
        """Add the row of a variant; returns its accuracy."""
        share = self.accuracy_of(model)
        self.add("network_accuracy", share, variant=variant, se=share_error(share, len(self.test)), **columns)
        return share

    def evaluate_clusters(self, masks: Mapping[str, NDArray[np.bool_]], **columns: Any) -> nn.Module:
        """Add the rows of the network with masks, without and with retraining; returns the retrained network."""
        with masked(self.network, _weight_masks(self.chain, masks)):
            self.evaluate("clusters masked", self.network, **columns)
        model = self.retrained(masks)
        self.evaluate("clusters retrained", model, **columns)
        return model

    def evaluate_random(self, masks: Mapping[str, NDArray[np.bool_]], controls: int, **columns: Any) -> None:
        """Add the row of the control: mean accuracy over random masks of the size of `masks`."""
        accuracies = []
        for seed in range(self.config.seed, self.config.seed + controls):
            random = {name: random_alike(mask, seed=seed) for name, mask in masks.items()}
            accuracies.append(self.accuracy_of(self.retrained(random)))
        if accuracies:
            mean = float(np.mean(accuracies))
            error = np.std(accuracies, ddof=1) / controls**0.5 if controls > 1 else (mean * (1 - mean) / len(self.test)) ** 0.5
            self.add("network_accuracy", mean, variant="random retrained", se=float(error), **columns)

    def retrained(self, masks: Mapping[str, NDArray[np.bool_]]) -> nn.Module:
        """A copy of the network, retrained with masks."""
        model = copy.deepcopy(self.network)
        retrain(model, self.train, _weight_masks(self.chain, masks), self.config, device=self.device, hidden=self.hidden)
        return model


def _kept_share(chain: Mapping[str, Link], masks: Mapping[str, NDArray[np.bool_]], network: nn.Module) -> float:
    """Share of the pruned layers' weights that are not masked."""
    sizes = {name: network.get_submodule(name).weight.numel() for name in chain}  # type: ignore[operator]
    return float(sum(masks[name].mean() * size for name, size in sizes.items()) / sum(sizes.values()))


def _check_arguments(train: Images, test: Images, thetas: Sequence[float]) -> None:
    """Raise UsageError if a threshold is invalid, or training and test images overlap."""
    if invalid := [theta for theta in thetas if not 0 < theta < 1]:
        raise UsageError(f"theta is {invalid[0]}; it must lie between 0 and 1.")
    same = (train.data.spec, train.data.split) == (test.data.spec, test.data.split)
    if same and np.intersect1d(train.data.ids, test.data.ids).size:
        raise UsageError(f"{train.data.spec} is both trained and tested on; give other test images, or another split.")


def _classes(network: nn.Module, example: Tensor, train: Images, test: Images) -> int:
    """Number of classes; raises DataError if the network has not one output per class, or a class has no training image."""
    with torch.no_grad():
        outputs = network(example)
    k = int(max(train.labels.max(), test.labels.max())) + 1
    if outputs.ndim != 2 or outputs.shape[1] != k:
        raise DataError(
            f"The network has {' x '.join(map(str, outputs.shape[1:]))} outputs per image, and the images have {k} classes; "
            f"give a network that was trained on these classes."
        )
    missing = sorted(set(range(k)) - set(train.labels.tolist()))
    if missing:
        raise DataError(f"No training image has label {missing[0]}; masks need all {k} labels.")
    return k

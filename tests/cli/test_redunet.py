"""`redunet build` and `plan`, and the other verbs on the network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repanalysis.networks.redunet.network import ReduNet
from repanalysis.table import Table
from tests.cli.running import refused, run

SMALL = ("--data", "digits", "--split", "train", "--per-class", 8, "--layers", 3, "--eta-eff", 1)


def test_a_network_is_built_and_goes_through_every_verb(tmp_path: Path) -> None:
    net, rates, figure = (tmp_path / name for name in ("n.safetensors", "r.csv", "r.svg"))
    invariant = ("--shift-invariant", "--channels", 4)
    result = run("redunet", "build", *SMALL, *invariant, "--test-split", "test", "-o", net, "--table", rates, "-f", figure)
    assert result.exit_code == 0, result.output
    assert "layers.2" in result.output
    assert "effective eps^2 = 0.1" in result.output
    assert "<svg" in figure.read_text()
    assert len(Table.load(rates)) == 2 * 4 * 3
    acts, table = tmp_path / "a.h5", tmp_path / "t.csv"
    model = f"redunet:{net}"
    for words in (
        ("layers", model),
        ("plan", model, "--data", "digits"),
        ("extract", model, "--data", "digits", "--limit", 60, "-o", acts, "--pool", "none"),
        ("analyze", acts, "-m", "fisher_ratio,shift_rate_reduction", "-o", table),
        ("stability", model, "--data", "digits", "-p", "shift:1", "--limit", 40, "-o", tmp_path / "s.csv"),
        ("plot", table, "-o", tmp_path / "t.svg"),
        ("plot", rates, "-o", tmp_path / "p.svg"),
        ("verify", model, acts, "--data", "digits"),
    ):
        result = run(*words)
        assert result.exit_code == 0, (words, result.output)


def test_the_result_as_json(tmp_path: Path) -> None:
    result = run("redunet", "build", *SMALL, "-o", tmp_path / "n.safetensors", "--json")
    rates = json.loads(result.stdout)["rates"]
    assert [row["layer"] for row in rates] == ["norm", "layers.0", "layers.1", "layers.2"]
    planned = json.loads(run("redunet", "plan", *SMALL[:6], "--layers", 3, "--json").stdout)
    network = ReduNet.load(tmp_path / "n.safetensors")
    assert planned["file_bytes"] == sum(layer.operators.nbytes for layer in network.layers)  # type: ignore[union-attr,operator]


def test_existing_files_and_wrong_words_are_refused(tmp_path: Path) -> None:
    net = tmp_path / "n.safetensors"
    assert run("redunet", "build", *SMALL, "-o", net).exit_code == 0
    before = net.read_bytes()
    assert "exists already" in refused("redunet", "build", *SMALL, "-o", net, code=2)
    assert net.read_bytes() == before
    assert run("redunet", "build", *SMALL, "-o", net, "--overwrite").exit_code == 0
    assert ".safetensors" in refused("redunet", "build", *SMALL, "-o", tmp_path / "n.pt", code=2)
    assert "leave --weights and --init out" in refused("layers", f"redunet:{net}", "--weights", net, code=2)
    assert "There is no ReduNet file" in refused("layers", "redunet:none.safetensors", code=2)
    assert "shift_invariant" in refused("redunet", "build", *SMALL, "--channels", 4, "-o", tmp_path / "m.safetensors", code=2)
    assert not list(tmp_path.glob("m.*"))


@pytest.mark.parametrize("words", [("--eps-sq", 0), ("--assignment", "soft"), ("--size", "x"), ("--tol", -1)])
def test_bad_options_are_one_sentence(words: tuple[object, ...], tmp_path: Path) -> None:
    refused("redunet", "build", *SMALL, *words, "-o", tmp_path / "m.safetensors", code=2)


def test_experiments_write_networks_tables_and_figures(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    words = ("redunet", "study", "iris", "translation", "--layers", 2, "-o", folder)
    result = run(*words)
    assert result.exit_code == 0, result.output
    names = {"rates.csv", "accuracies.csv", "shifts.csv"}
    names |= {f"{name}{ending}" for name in ("iris", "translation") for ending in (".safetensors", ".svg", "-cosines.svg")}
    assert {path.name for path in folder.iterdir()} == names
    assert len(Table.load(folder / "rates.csv").provenance) == 4
    assert "nearest subspace" in result.output
    assert "shift-invariant" in result.output
    assert "exists already" in refused(*words, code=2)
    assert "Did you mean 'iris'" in refused("redunet", "study", "iri", "-o", folder, code=2)

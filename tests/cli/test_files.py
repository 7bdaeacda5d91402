"""Files of activations on the command line: checked, repaired, joined."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.running import DIGITS, refused, run, write_acts
from tests.cli.test_extraction import extracted


def test_verify_reports_whether_activations_are_reproduced(tmp_path: Path) -> None:
    path = extracted(tmp_path / "x.h5")
    assert "give --data (data=), or --trust-file" in refused("verify", DIGITS, path, code=2)
    result = run("verify", DIGITS, path, "--samples", 8, "--data", "digits")
    assert result.exit_code == 0
    assert "layers come out again, on 8 random samples" in result.stdout
    other_model = "py:tests.networks.cifar_resnet:resnet20"
    assert "was made with other weights" in refused("verify", other_model, path, "--trust-file", code=2)


def test_doctor_reports_intact_layers_and_what_to_do(tmp_path: Path) -> None:
    complete, stopped = write_acts(tmp_path / "a.h5"), write_acts(tmp_path / "b.h5", complete=False)
    assert run("doctor", complete).exit_code == 0
    result = run("doctor", stopped)
    assert result.exit_code == 3
    assert "RESUMABLE" in result.stdout
    assert "--resume" in result.stdout
    content = bytearray(complete.read_bytes())
    content[len(content) // 2] ^= 1
    complete.write_bytes(content)
    result = run("doctor", complete)
    assert result.exit_code == 1
    assert "DAMAGED" in result.stdout
    assert "2 of 2 files need attention" in run("doctor", tmp_path).stderr


def test_merge_and_info_of_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        extracted(tmp_path / "acts", "--batch-size", 16)
    monkeypatch.undo()
    assert "samples          100" in run("info", tmp_path / "acts").stdout
    assert run("merge", tmp_path / "acts", "-o", tmp_path / "one.h5").exit_code == 0
    a, b = (json.loads(run("analyze", tmp_path / name, "--json").stdout)["rows"] for name in ("acts", "one.h5"))
    numbers = [[np.nan if row["value"] is None else float(row["value"]) for row in rows] for rows in (a, b)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-10, nan_ok=True)


@pytest.mark.filterwarnings("ignore::probes.IgnoredWarning")
def test_foreign_feature_files_are_described_and_not_verified(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", a=np.eye(4), labels=[0, 1, 0, 1], mean=np.zeros(9), b=np.eye(4))
    completed = run("info", tmp_path / "f.npz")
    assert completed.exit_code == 0, completed.output
    assert "1 left out:\n  mean: its first axis has 9 entries, not 4" in completed.stdout
    assert "kind             npz" in completed.stdout
    assert "does not say which network it was made with" in refused("verify", DIGITS, tmp_path / "f.npz", code=2)

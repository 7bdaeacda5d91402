"""A process of torchrun is killed midway: its shard is named, and --resume writes the shards of an uninterrupted run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn

import probes.storage.writer
from probes.checking import doctor
from tests.conformance.test_crashes import content

FLAG = "REPANALYSIS_TEST_KILL"


class Dying(nn.Module):
    """Kills the process of rank 1 in its fourth step, once, if the file named in the environment exists."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.steps = nn.Linear(64, 5), 0

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 4:  # not the passes that infer axes
            self.steps += 1
        flag = Path(os.environ[FLAG])
        if self.steps == 4 and os.environ.get("RANK") == "1" and flag.exists():
            flag.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        result: Tensor = self.fc(x.flatten(1))
        return result


def dying() -> nn.Module:
    """The network, in a process that commits after every step."""
    probes.storage.writer._COMMIT_SECONDS = (0.0, 0.0)
    return Dying()


def torchrun(folder: Path, flag: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "repanalysis.cli"]
    words = ["extract", "py:tests.conformance.test_ranks:dying", "--data", "digits", "--limit", "80", "--batch-size", "4"]
    environment = os.environ | {FLAG: str(flag), "OMP_NUM_THREADS": "1"}
    arguments = [*command, *words, "-o", str(folder), *options]
    return subprocess.run(arguments, env=environment, check=False, capture_output=True, text=True)


@pytest.mark.slow
def test_the_shard_of_a_killed_rank_is_named_and_written_again(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    assert torchrun(tmp_path / "whole", flag).returncode == 0
    flag.write_text("")
    stopped = torchrun(tmp_path / "acts", flag)
    assert not flag.exists()
    assert stopped.returncode == 1, "torchrun's own exit code"
    states = [status.state for status in doctor(tmp_path / "acts", progress=False)]
    assert set(states) <= {"whole", "resumable", "empty", "missing"}
    assert set(states) != {"whole"}
    analyze = [sys.executable, "-m", "repanalysis.cli", "analyze", str(tmp_path / "acts"), "-m", "spectrum"]
    refused = subprocess.run(analyze, check=False, capture_output=True, text=True)
    assert refused.returncode == 3, refused.stderr
    assert "shard-0000" in refused.stderr
    resumed = torchrun(tmp_path / "acts", flag, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    for rank in range(2):
        name = f"shard-0000{rank}-of-00002.h5"
        actual, expected = content(tmp_path / "acts" / name), content(tmp_path / "whole" / name)
        assert actual.keys() == expected.keys()
        for key, values in actual.items():
            np.testing.assert_array_equal(values, expected[key], err_msg=f"{name} {key}")
            assert values.dtype == expected[key].dtype

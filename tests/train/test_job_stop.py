"""A submitted training that is stopped by `ray job stop`, and submitted again."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.helpers.servers import BIN, ray_head
from tests.helpers.trainings import experiment, states, until


@pytest.mark.cluster
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_a_stopped_training_resumes_to_the_same_weights(tmp_path: Path) -> None:
    file = experiment(tmp_path, train={"steps": 1500, "checks": 10}, cluster={"workers": 1})
    with ray_head("--num-cpus=4") as head:

        def submit(workspace: Path, *options: str) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [*head.job(*options), "zse", "train", "-e", file, "-w", str(workspace)],
                env=head.env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

        undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
        beside = submit(undisturbed)
        job = submit(stopped, "--submission-id", "stopped")
        until(lambda: any(step > 0 for step in states(stopped)), job, 300)
        stop = [str(BIN / "ray"), "job", "stop", "--address", head.dashboard, "stopped"]
        subprocess.run(stop, env=head.env, check=True, capture_output=True)
        assert "stopped" in job.communicate(timeout=120)[0]
        assert not list(stopped.glob("checkpoints/*/manifest.json")), "it was in the middle of its work"
        kept = max(states(stopped))
        assert 0 < kept < 1500
        seen = subprocess.run(
            [str(BIN / "zse"), "status", "tiny", "-w", str(stopped)],
            env=head.env,
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"last state  step {kept:,}" in seen.stdout and "Next: zse train" in seen.stderr, seen
        for process in (submit(stopped), beside):
            said = process.communicate()[0]
            assert process.returncode == 0, said[-3000:]
    first, second = (json.loads(p.read_text()) for p in tmp_path.glob("*/checkpoints/*/manifest.json"))
    assert first["last_weights_sha256"] == second["last_weights_sha256"] and first["digest"] == second["digest"]

"""A submitted training that is stopped by `ray job stop`, and submitted again."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.helpers.servers import BIN, ray_head
from tests.helpers.trainings import copy_inputs, experiment, states, until

STEPS = 500


@pytest.mark.cluster
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_stopped_training_resumes_to_the_weights_of_a_plain_process(tmp_path: Path, prepared: str) -> None:
    plain, stopped = tmp_path / "plain", tmp_path / "stopped"
    for workspace in (plain, stopped):
        copy_inputs(prepared, str(workspace))
    settings = {"steps": STEPS, "checks": 10}
    command = [str(BIN / "zse"), "train", "-e", experiment(plain, train=settings, cluster={"workers": 0})]
    subprocess.run([*command, "-w", str(plain)], check=True, capture_output=True)

    file = experiment(stopped, train=settings, cluster={"workers": 1})
    with ray_head("--num-cpus=2") as head:

        def submit(*options: str) -> subprocess.Popen[str]:
            return subprocess.Popen(
                [*head.job(*options), "zse", "train", "-e", file, "-w", str(stopped)],
                env=head.env,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )

        job = submit("--submission-id", "stopped")
        until(lambda: any(step > 0 for step in states(stopped)), job, 300)
        # What `ray job stop` asks for, without the seconds of its start, in which a short training would end.
        request = Request(f"{head.dashboard}/api/jobs/stopped/stop", method="POST")
        with urlopen(request, timeout=30) as answer:
            assert json.load(answer) == {"stopped": True}
        assert "Job 'stopped' was stopped" in job.communicate(timeout=120)[0]
        assert not list(stopped.glob("checkpoints/*/manifest.json")), "it was in the middle of its work"
        kept = max(states(stopped))
        assert 0 < kept < STEPS
        seen = subprocess.run(
            [str(BIN / "zse"), "status", "tiny", "-w", str(stopped)],
            env=head.env,
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"last state  step {kept:,}" in seen.stdout and "Next: zse train" in seen.stderr, seen
        again = submit()
        said = again.communicate()[0]
        assert again.returncode == 0, said[-3000:]
    first, second = (json.loads(p.read_text()) for p in tmp_path.glob("*/checkpoints/*/manifest.json"))
    assert first["last_weights_sha256"] == second["last_weights_sha256"]

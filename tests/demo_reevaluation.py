"""A scripted week of a retrieval team, on a real Ray, a real MLflow server and a real S3 server of this machine.

    make demo-reevaluation        # leaves demo/: MLflow's database, the page, the summaries

Monday two models are trained by submitted jobs, and rules promote one after the other, by ten pseudo-unseen classes.
Then data sets arrive in a bucket: a good one on Tuesday, a shifted one on Wednesday, a half corrupt one on Thursday; on
Friday the good one is delivered again, from a worse scanner. Every day the schedule fires, twice by mistake. The
script ends with 1 if anything is not as it says.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mlflow import MlflowClient
from PIL import Image

from pipelines.store import storage
from tests.helpers.servers import BIN, mlflow_server, ray_head, s3_server
from zse_model.synthetic import UNSEEN, draw_photo, draw_sketch

SCRIPT = Path(__file__).parents[1] / "infra" / "cron" / "reevaluate.sh"
WORKSPACE, CATALOG, SIZE = "s3://demo/zse", "s3://demo/datasets", 64

EXPERIMENT = {
    "name": "demo",
    "dataset": {"adapter": "synthetic", "name": "synthetic", "split": "synthetic", "instances": 8, "size": SIZE},
    "transforms": {"size": SIZE},
    "shard": {"items": 4000, "own_photo": 0.8},
    "backbone": {"name": "test_resnet"},
    "methods": {"global": {"dim": 128, "readout": "head", "temperature": 0.1}},
    "train": {"batch_size": 16, "lr": 4.0e-3, "warmup": 5, "checks": 3},
    "cluster": {"workers": 1},
    "evaluation": {"classes": "pseudo_unseen"},
}


class Stage:
    """The servers, and the commands of the team."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        """The servers end with the stack."""
        self.folder, self.started = folder, time.monotonic()
        for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_", "ZSE_"))]:
            os.environ.pop(name)
        store = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{stack.enter_context(s3_server('demo'))}",
            "AWS_ACCESS_KEY_ID": "demo",
            "AWS_SECRET_ACCESS_KEY": "demo",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        mlflow = stack.enter_context(mlflow_server(f"sqlite:///{folder}/mlflow.db", f"{folder}/artifacts"))
        tracking = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", "MLFLOW_TRACKING_URI": mlflow}
        os.environ.update(store | tracking)
        head = stack.enter_context(ray_head("--num-cpus=4"))
        self.env, self.cluster = head.env, head.dashboard

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.started:4.0f} s] {text}", flush=True)

    def submit(self, *command: str) -> None:
        """A job on the cluster, to its end."""
        done = self._run("ray", "job", "submit", "--address", self.cluster, "--", *command)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    def zse(self, *command: str) -> str:
        done = self._run("zse", *command)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    def fire(self, day: str) -> dict[str, Any]:
        """The schedule of a day, twice by mistake; gives the summary."""
        asked = {"RAY_ADDRESS": self.cluster, "CATALOG": CATALOG, "ZSE_WORKSPACE": WORKSPACE, "ID": f"reevaluate-{day}"}
        asked |= {"MODELS": "zse@champion,zse@former", "OPTIONS": "--promote"}
        for _ in range(2):
            done = subprocess.run([str(SCRIPT)], env=self.env | asked, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        while (state := self._job(asked["ID"])["status"]) not in ("SUCCEEDED", "FAILED", "STOPPED"):
            time.sleep(1)
        assert state == "SUCCEEDED", self._run("ray", "job", "logs", "--address", self.cluster, asked["ID"]).stdout[
            -4000:
        ]
        client = MlflowClient()
        experiment = client.get_experiment_by_name("reevaluations")
        assert experiment is not None
        run, *_ = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])
        folder = client.download_artifacts(run.info.run_id, "summary.json", str(self.folder))
        summary = json.loads(Path(folder).read_text())
        Path(folder).rename(self.folder / f"{day}.json")
        return summary

    def _job(self, id: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.cluster}/api/jobs/{id}", timeout=30) as answer:
            return json.load(answer)

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            env=self.env,
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
        )


def deliver(name: str, *, scanner: str = "good", corrupt: int = 0, first: int = 100) -> None:
    """Write a data set of the unseen classes to the bucket; `corrupt` of every hundred photos are cut short."""
    generator = np.random.default_rng(0)
    for category in UNSEEN:
        for i in range(first, first + 6):
            sketch = draw_sketch(category, i, size=SIZE)
            if scanner != "good":  # thick lines, and on a worse one half of the paper is lost
                sketch = np.minimum.reduce([np.roll(sketch, by, axis) for axis in (0, 1) for by in (-1, 0, 1)])
            if scanner == "worse":
                sketch[:, : SIZE // 2] = 255
                sketch[generator.random(sketch.shape) < 0.1] = 0
            photo = _png(draw_photo(category, i, size=SIZE))
            cut = len(photo) // 3 if generator.random() * 100 < corrupt else len(photo)
            storage.write_bytes(f"{CATALOG}/{name}/sketch/{category}/{i}.png", _png(sketch))
            storage.write_bytes(f"{CATALOG}/{name}/photo/{category}/{i}.png", photo[:cut])


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def week(stage: Stage) -> None:
    client = MlflowClient()
    (stage.folder / "demo.yaml").write_text(yaml.safe_dump(EXPERIMENT))
    for steps in (60, 250):  # after 20 the first one cannot be told from chance, and is not promoted
        train = ["zse", "run", "-e", str(stage.folder / "demo.yaml"), "-w", WORKSPACE, "--set", f"train.steps={steps}"]
        stage.submit(*train)
        newest = max(storage.folders(f"{WORKSPACE}/checkpoints"), key=lambda name: _steps(name))
        out = stage.zse("promote", f"{WORKSPACE}/checkpoints/{newest}", "--name", "zse", "-w", WORKSPACE)
        assert "is the champion of zse" in out, out
        reasons = [line for line in out.splitlines() if line.startswith(("holds", "FAILS"))]
        stage.say(f"Monday: trained {steps} steps, promoted by rule\n         " + "\n         ".join(reasons))
    assert str(client.get_model_version_by_alias("zse", "champion").version) == "2"

    deliver("shop")
    tuesday = stage.fire("tuesday")
    stage.say(f"Tuesday: shop arrives, {tuesday['status']}: {_table(tuesday)}")
    assert tuesday["status"] == "fine" and _made(tuesday) == 2

    deliver("scans", scanner="thick", first=200)
    wednesday = stage.fire("wednesday")
    stage.say(f"Wednesday: scans arrives, {wednesday['status']}: {_table(wednesday)}")
    assert wednesday["status"] == "fine" and _made(wednesday) == 2
    assert next(x for x in wednesday["lines"] if x["dataset"] == "scans")["drift"]["ink"] > 1

    deliver("street", corrupt=50, first=300)
    thursday = stage.fire("thursday")
    stage.say(
        f"Thursday: street arrives half corrupt, {thursday['status']}: {thursday['broken']['street'].splitlines()[0]}"
    )
    assert thursday["status"] == "partial" and _made(thursday) == 0

    deliver("shop", scanner="worse")
    friday = stage.fire("friday")
    stage.say(f"Friday: shop is delivered again, {friday['status']}: {_table(friday)}")
    assert friday["status"] == "regression" and _made(friday) == 2
    assert {"model": "zse@champion", "dataset": "shop"} in friday["regressions"]
    assert str(client.get_model_version_by_alias("zse", "champion").version) == "2", "the champion is kept"

    experiments = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(experiments, "tags.`zse.kind` = 'evaluation'")
    asked = [(r.data.tags["zse.setting"], r.data.tags["zse.checkpoint_hash"]) for r in runs]
    assert len(asked) == len(set(asked)), "a report appears more than once"
    ours = [r for r in runs if r.data.tags["zse.dataset"] != "synthetic"]
    assert len(ours) == 6 and {r.info.status for r in runs} == {"FINISHED"}
    stage.zse("report", "-w", WORKSPACE, "--out", str(stage.folder / "report.html"))
    stage.say(f"Saturday: {len(ours)} reports of data that arrived, each once; the champion of Monday is kept")


def _steps(checkpoint: str) -> int:
    return int(storage.read_json(f"{WORKSPACE}/checkpoints/{checkpoint}/manifest.json")["training"]["steps"])


def _made(summary: dict[str, Any]) -> int:
    return sum(line["evaluated"] for line in summary["lines"])


def _table(summary: dict[str, Any]) -> str:
    told = []
    for line in summary["lines"]:
        change = line["changes"].get("ret")
        text = f"{line['model']} on {line['dataset']} {line['values']['ret'][0]:.3f}"
        told.append(text + (f" ({change['difference']['value']:+.3f})" if change else ""))
    return ", ".join(told)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the servers end with the script
    folder = Path("demo").absolute()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with ExitStack() as stack:
        stage = Stage(folder, stack)
        stage.say("MLflow, S3 and Ray answer")
        week(stage)
    print(f"Result: {folder}/report.html\nNext: mlflow ui --backend-store-uri sqlite:///{folder}/mlflow.db")


if __name__ == "__main__":
    main()

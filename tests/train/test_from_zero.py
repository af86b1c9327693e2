"""A cluster without worker nodes: Ray's autoscaler adds them with its fake provider, as processes of this machine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import TINY
from tests.helpers.servers import BIN, free_ports, ray_head


def launcher(gcs: str) -> dict[str, Any]:
    """As ray_cluster.yaml: a head without CPUs, workers from zero. The rest is what the launcher's schema asks for."""
    provider = {"type": "fake_multinode", "gcs_address": gcs, "use_node_id_as_ip": True}
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    worker = {"resources": {"CPU": 2, "object_store_memory": 300_000_000}, "node_config": {}, "max_workers": 3}
    return {
        "cluster_name": "zero",
        "provider": provider | {"disable_node_updaters": True, "disable_launch_config_check": True},
        "max_workers": 3,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 10,
        "available_node_types": {
            "ray.head.default": {"resources": {}, "node_config": {}, "max_workers": 0},
            "worker": worker,
        },
        "head_node_type": "ray.head.default",
        **{key: {} for key in ("docker", "auth", "file_mounts")},
        **{f"{key}_commands": [] for key in commands},
        **{key: [] for key in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
    }


@pytest.mark.cluster
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_run_brings_the_nodes_that_it_needs(tmp_path: Path) -> None:
    """Two training workers and Ray Data want three CPUs: two nodes of two."""
    (port,) = free_ports(1)
    (tmp_path / "launcher.json").write_text(json.dumps(launcher(f"127.0.0.1:{port}")))
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY | {"cluster": {"workers": 2}}))
    small = ("--num-cpus=0", "--object-store-memory=200000000", f"--autoscaling-config={tmp_path}/launcher.json")
    fake = {"RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "0", "RAY_raylet_start_wait_time_s": "180"}
    with ray_head(*small, port=port, environment=fake) as head:
        done = subprocess.run(
            [str(BIN / "zse"), "run", "-e", str(tmp_path / "tiny.yaml"), "-w", str(tmp_path / "w")],
            env=head.env | {"RAY_ADDRESS": head.address},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert list(tmp_path.glob("w/reports/*/report.json"))

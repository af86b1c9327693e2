"""The manifests of Kubernetes as kustomize builds them: against the published schemas, and against each other.

Nothing is started. kustomize is the one in kubectl, or the program of that name; without either these are skipped.
"""

import copy
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import typer
import yaml

from pipelines.cli.app import app
from pipelines.serve.app import create_app
from pipelines.serve.guard import TOKEN
from pipelines.serve.run import GRACE
from pipelines.serve.service import Settings
from tests.infra.published import refusals
from tests.infra.test_manifests import INFRA, PROJECT, RAY, mappings

TAG = f"{PROJECT['version']}-ray{RAY}"
Documents = dict[str, dict[str, Any]]


def built(folder: str) -> Documents:
    """What kustomize makes of a folder, by kind/name."""
    if shutil.which("kubectl"):
        command = ["kubectl", "kustomize"]
    elif shutil.which("kustomize"):
        command = ["kustomize", "build"]
    else:
        pytest.skip("only who deploys on Kubernetes builds these: install kubectl, kubernetes.io/docs/tasks/tools")
    made = subprocess.run([*command, str(INFRA / "kuberay" / folder)], capture_output=True, text=True, check=True)
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in yaml.safe_load_all(made.stdout)}


@pytest.fixture(scope="module")
def overlay() -> Documents:
    return built("overlay")


@pytest.fixture(scope="module")
def cluster(overlay: Documents) -> dict[str, Any]:
    return overlay["RayCluster/zse"]["spec"]


def groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def pods(overlay: Documents) -> Iterator[dict[str, Any]]:
    return (node for one in overlay.values() for node in mappings(one) if "containers" in node)


def limits(group: dict[str, Any]) -> dict[str, str]:
    return group["template"]["spec"]["containers"][0]["resources"]["limits"]


def gib(quantity: str) -> int:
    return int(quantity.removesuffix("Gi")) * 2**30


@pytest.mark.parametrize("folder", ["base", "overlay"])
def test_everything_is_valid_by_the_published_schemas(folder: str) -> None:
    assert {name: found for name, one in built(folder).items() if (found := refusals(one))} == {}


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("RayCluster/zse", "spec.enableInTreeAutoscalling", True),
        ("RayCluster/zse", "spec.authOptions.mode", "tokens"),
        ("RayCluster/zse", "spec.headGroupSpec.template.spec.containers.0.imagePulPolicy", "Always"),
        ("RayCluster/zse", "spec.headGroupSpec.rayStartParams.num-cpus", 0),
        ("RayJob/zse-train", "spec.entryPoint", "zse run"),
        ("RayJob/zse-train", "spec.rayClusterSpec.workerGroupSpecs.1.maxReplicas", "4"),
        ("CronJob/zse-reevaluate", "spec.concurencyPolicy", "Forbid"),
        ("Deployment/mlflow", "spec.template.spec.containers.0.ports.0.containerPort", "http"),
        ("NetworkPolicy/zse", "spec.ingress.0.form", []),
        ("PodDisruptionBudget/zse-serve", "spec.maxUnavailabel", 1),
    ],
)
def test_a_planted_mistake_is_refused(overlay: Documents, name: str, path: str, value: Any) -> None:
    document = copy.deepcopy(overlay[name])
    *way, last = path.split(".")
    node: Any = document
    for step in way:
        node = node[int(step)] if isinstance(node, list) else node[step]
    node[last] = value
    assert refusals(document)


def test_the_overlay_says_all_that_a_user_has_to(overlay: Documents) -> None:
    text = yaml.safe_dump_all(overlay.values())
    assert "registry.example.com" not in text and "//BUCKET" not in text
    assert {one["metadata"]["namespace"] for one in overlay.values()} == {"zse"}


def test_a_training_has_the_spec_of_the_cluster_with_the_overlays_changes(overlay: Documents) -> None:
    job = overlay["RayJob/zse-train"]
    assert job["spec"]["rayClusterSpec"] == overlay["RayCluster/zse"]["spec"]
    apart = {name for name, one in overlay.items() if "app.kubernetes.io/component" in one["metadata"]["labels"]}
    assert apart == {"RayJob/zse-train"}, "docs/operating.md starts it by this label"
    assert job["metadata"]["labels"]["app.kubernetes.io/component"] == "training"


def test_jobs_only_run_zse(overlay: Documents) -> None:
    for name, one in overlay.items():
        containers = [container for pod in pods({name: one}) for container in pod["containers"]]
        match one["kind"]:
            case "RayCluster" | "RayJob":  # KubeRay writes the containers' commands: ray start
                assert not any({"command", "args"} & container.keys() for container in containers)
                assert one["kind"] == "RayCluster" or shlex.split(one["spec"]["entrypoint"])[0] == "zse"
            case "CronJob":
                (submit,) = containers
                assert submit["command"][:3] == ["ray", "job", "submit"] and submit["command"][-1] == "--"
                assert submit["args"][0] == "zse"
            case "Deployment":
                assert all(
                    container["command"][:2] in (["mlflow", "server"], ["zse", "serve"]) for container in containers
                )
            case kind:
                passive = {"Service", "ServiceAccount", "ConfigMap", "NetworkPolicy", "PodDisruptionBudget"}
                assert kind in passive, f"{name}: say here what a {kind} may run"


def test_mlflow_starts_no_processes_for_jobs_of_its_own(overlay: Documents) -> None:
    servers = [
        c for pod in pods(overlay) for c in pod["containers"] if c.get("command", [])[:2] == ["mlflow", "server"]
    ]
    assert [{"name": "MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "value": "false"} in c["env"] for c in servers] == [True]


def test_images_are_of_this_version_and_cuda_is_where_gpus_are(overlay: Documents) -> None:
    for pod in pods(overlay):
        for container in pod["containers"]:
            gpu = "nvidia.com/gpu" in container["resources"].get("limits", {})
            assert container["image"].endswith(f"/zse-{'cuda' if gpu else 'cpu'}:{TAG}")


def test_the_cluster_scales_from_zero(cluster: dict[str, Any]) -> None:
    assert cluster["rayVersion"] == RAY
    assert cluster["enableInTreeAutoscaling"] is True and cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", "tasks on the head starve the drivers"
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]
    assert "upgradeStrategy" not in cluster, "KubeRay refuses it in the cluster of a RayJob"


def test_object_stores_fit_their_pods(cluster: dict[str, Any]) -> None:
    for group in groups(cluster):
        store = int(group["rayStartParams"]["object-store-memory"])
        assert 0.2 <= store / gib(limits(group)["memory"]) <= 0.4


def test_a_training_fits_its_cluster_and_ends(overlay: Documents, cluster: dict[str, Any]) -> None:
    job = overlay["RayJob/zse-train"]["spec"]
    options = dict(re.findall(r"--set cluster\.(\w+)=(\d+)", job["entrypoint"]))
    workers, cpus, gpus = (int(options[key]) for key in ("workers", "cpus_per_worker", "gpus_per_worker"))

    def total(resource: str) -> int:
        return sum(group["maxReplicas"] * int(limits(group).get(resource, 0)) for group in cluster["workerGroupSpecs"])

    assert workers * gpus == total("nvidia.com/gpu")
    assert workers * cpus < total("cpu"), "Ray Data hangs when training holds every CPU"
    assert job["shutdownAfterJobFinishes"] is True and job["ttlSecondsAfterFinished"] > 0 <= job["backoffLimit"]
    assert job["activeDeadlineSeconds"] > job["preRunningDeadlineSeconds"] > 0


def test_the_schedule_reevaluates_on_the_cluster_one_at_a_time(overlay: Documents) -> None:
    cron = overlay["CronJob/zse-reevaluate"]["spec"]
    assert cron["concurrencyPolicy"] == "Forbid" and cron["timeZone"]
    ((submit,),) = [pod["containers"] for pod in pods({"": overlay["CronJob/zse-reevaluate"]})]
    # KubeRay's names: the head's Service and the Secret of the token are called after the RayCluster
    assert "--address=http://zse-head-svc:8265" in submit["command"]
    token = next(one for one in submit["env"] if one["name"] == "RAY_AUTH_TOKEN")
    assert token["valueFrom"]["secretKeyRef"] == {"name": "zse", "key": "auth_token"}
    settings = overlay["ConfigMap/zse"]["data"]
    asked = [re.sub(r"\$\((\w+)\)", lambda found: settings[found[1]], argument) for argument in submit["args"]]
    parsed = typer.main.get_command(app).commands["reevaluate"].make_context("reevaluate", asked[2:])  # pyright: ignore[reportAttributeAccessIssue]
    assert asked[:2] == ["zse", "reevaluate"] and parsed.params["models"] == "zse@champion,zse@challenger"
    assert parsed.params["catalog"] == settings["CATALOG"]
    assert not parsed.params["exit_code"], "a retry would not fix a regression"


def test_the_index_follows_its_catalogue_every_night(overlay: Documents) -> None:
    cron = overlay["CronJob/zse-index"]["spec"]
    assert cron["concurrencyPolicy"] == "Forbid" and cron["timeZone"]
    ((submit,),) = [pod["containers"] for pod in pods({"": overlay["CronJob/zse-index"]})]
    settings = overlay["ConfigMap/zse"]["data"]
    asked = [re.sub(r"\$\((\w+)\)", lambda found: settings[found[1]], argument) for argument in submit["args"]]
    parsed = typer.main.get_command(app).commands["index"].make_context("index", asked[2:])  # pyright: ignore[reportAttributeAccessIssue]
    assert asked[:2] == ["zse", "index"] and parsed.params["model"] == "models:/zse@champion"
    assert (parsed.params["source"], parsed.params["index"]) == (settings["PHOTOS"], settings["INDEX"])


def test_the_service_is_probed_where_it_answers(overlay: Documents) -> None:
    deployment, service = overlay["Deployment/zse-serve"]["spec"], overlay["Service/zse-serve"]["spec"]
    pod = deployment["template"]["spec"]
    (container,) = pod["containers"]
    settings = overlay["ConfigMap/zse"]["data"]
    verb, *arguments = [re.sub(r"\$\((\w+)\)", lambda name: settings[name[1]], word) for word in container["args"]]
    serve = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    parsed = serve.make_context("serve", [verb, *arguments])
    assert (parsed.params["index"], parsed.params["host"]) == (settings["INDEX"], "0.0.0.0")
    assert container["ports"][0]["containerPort"] == parsed.params["port"]
    assert service["ports"][0]["targetPort"] == container["ports"][0]["name"]
    assert service["selector"].items() <= deployment["template"]["metadata"]["labels"].items()
    paths = [container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")]
    assert paths == ["/readyz", "/readyz", "/healthz"] and set(paths) <= {route.path for route in routes()}
    assert pod["terminationGracePeriodSeconds"] > GRACE + int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    (token,) = container["env"]
    assert token["name"] == TOKEN


def test_a_drained_node_leaves_a_replica_that_answers(overlay: Documents) -> None:
    deployment, budget = overlay["Deployment/zse-serve"]["spec"], overlay["PodDisruptionBudget/zse-serve"]["spec"]
    (spread,) = deployment["template"]["spec"]["topologySpreadConstraints"]
    labels = deployment["template"]["metadata"]["labels"]
    for selector in (budget["selector"], spread["labelSelector"]):
        assert selector["matchLabels"].items() <= labels.items()
    assert 0 < budget["maxUnavailable"] < deployment["replicas"]


def routes() -> list[Any]:
    return create_app(Settings(index="", model=""), None).routes


def test_what_is_referred_to_is_there(overlay: Documents) -> None:
    settings = overlay["ConfigMap/zse"]["data"]
    for pod in pods(overlay):
        assert pod["serviceAccountName"] == overlay["ServiceAccount/zse"]["metadata"]["name"]
        for node in mappings(pod):
            assert node.get("configMapRef", {"name": "zse"}) == {"name": "zse"}
            if key := node.get("configMapKeyRef"):
                assert key["name"] == "zse" and key["key"] in settings


def test_no_pod_is_root_and_only_the_head_may_ask_kubernetes(overlay: Documents) -> None:
    for pod in pods(overlay):
        assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        for container in pod["containers"]:
            safe = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
            assert container["securityContext"] == safe
            assert (container["name"] == "ray-head") != (pod.get("automountServiceAccountToken") is False)


def test_secrets_are_references(overlay: Documents) -> None:
    for name, one in overlay.items():
        assert one["kind"] != "Secret"
        for node in mappings(one):
            for variable in node.get("env", []):
                secret = re.search("SECRET|PASSWORD|TOKEN|ACCESS_KEY|BACKEND_STORE_URI", variable["name"])
                assert not secret or "secretKeyRef" in variable["valueFrom"], f"{name}: {variable['name']}"


def test_mlflow_is_reached_by_the_name_it_allows(overlay: Documents) -> None:
    deployment, service = overlay["Deployment/mlflow"], overlay["Service/mlflow"]
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    arguments = dict(argument.split("=", 1) for argument in container["command"] if "=" in argument)
    (port,) = service["spec"]["ports"]
    address = f"{service['metadata']['name']}:{port['port']}"
    assert address in arguments["--allowed-hosts"].split(",")
    assert port["targetPort"] in {item["name"] for item in container["ports"]}
    assert container["ports"][0]["containerPort"] == int(arguments["--port"])
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert overlay["ConfigMap/zse"]["data"]["MLFLOW_TRACKING_URI"] == f"http://{address}"
    # a Service called mlflow would otherwise set MLFLOW_PORT to tcp://..., which mlflow server refuses
    assert pod["enableServiceLinks"] is False

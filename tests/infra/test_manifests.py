"""The machines' files against their own schemas, the pinned versions and each other. Nothing is started."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

from pipelines.cli import app

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
MANIFESTS = sorted([*(INFRA / "kuberay").glob("*.yaml"), *(INFRA / "mlflow").glob("*.yaml")])
YAML_FILES = sorted([ROOT / "ray_cluster.yaml", *INFRA.rglob("*.yaml")])
TEXT_FILES = sorted(
    [ROOT / "ray_cluster.yaml", ROOT / "docs/operating.md", *(path for path in INFRA.rglob("*") if path.is_file())]
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {
    canonicalize_name(name): Version(version)
    for name, version in re.findall(r"^([^#\s=]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}
RAY = str(PINS["ray"])
DOCKERFILE = (INFRA / "docker/Dockerfile").read_text().replace("\\\n", " ")

SECRETS = [
    re.compile(pattern)
    for pattern in (
        r"(?:AKIA|ASIA)[A-Z0-9]{16}",
        r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
        # user:password@ in a URL, unless the password is a shell variable
        r"://[^/\s:@]+:[^$/\s:@][^/\s:@]*@",
        # key: value or KEY=value with a literal behind it
        r"(?i)(?:password|passwd|secret_access_key|auth_token|api_key)[\"']?[ \t]*[:=][ \t]*[\"']?[a-z0-9+/_-]{8,}",
    )
]


def named(paths: list[Path]) -> Any:
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(ROOT)))


def documents(path: Path) -> list[dict[str, Any]]:
    """Those of a file, and those that its ConfigMaps hold."""
    found = list(yaml.safe_load_all(path.read_text()))
    held = [text for one in found if one.get("kind") == "ConfigMap" for text in one["data"].values()]
    return [*found, *(yaml.safe_load(text) for text in held)]


def mappings(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping anywhere inside a YAML document."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from mappings(child)


def containers(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [container for node in mappings(document) for container in node.get("containers", [])]


def quantity(text: str) -> float:
    """A Kubernetes memory quantity in bytes."""
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", text).groups()
    return int(number) * {"Mi": 2**20, "Gi": 2**30}[unit]


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return documents(ROOT / "ray_cluster.yaml")[0]


@pytest.fixture(scope="module")
def rayjob() -> dict[str, Any]:
    return documents(INFRA / "kuberay/rayjob-train.yaml")[0]["spec"]


@named(YAML_FILES)
def test_yaml_parses(path: Path) -> None:
    assert all(isinstance(document, dict) for document in documents(path))


# --- constraints.txt


def test_constraints_pin_every_dependency() -> None:
    dependencies = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    for requirement in map(Requirement, dependencies):
        pin = PINS.get(canonicalize_name(requirement.name))
        assert pin is not None and pin in requirement.specifier, f"{requirement}: pinned {pin}"


def test_constraints_are_only_exact_pins() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines[0].startswith("#")
    assert len(PINS) == len(lines) - 1


# --- ray_cluster.yaml


def test_ray_accepts_the_cluster_file(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


def test_ray_refuses_an_unknown_key(cluster: dict[str, Any]) -> None:
    with pytest.raises(Exception, match="gpu_workers"):
        validate_config(prepare_config(cluster | {"gpu_workers": 4}))


def test_cluster_node_types(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    head = types[cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}, "tasks on the head starve the driver"
    assert "InstanceMarketOptions" not in head["node_config"], "losing a spot head loses the cluster"
    assert types["gpu_worker"]["min_workers"] == 0
    assert types["gpu_worker"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert all(node["node_config"]["IamInstanceProfile"] for node in types.values()), "no profile, no S3"
    assert cluster["max_workers"] == sum(node.get("max_workers", 0) for node in types.values())


def test_cluster_installs_the_tested_set(cluster: dict[str, Any]) -> None:
    assert cluster["docker"]["image"] == f"rayproject/ray:{RAY}-py311"
    assert cluster["file_mounts"]["/home/ray/zse"] == "."
    (setup,) = cluster["setup_commands"]
    assert "-c /home/ray/zse/constraints.txt /home/ray/zse" in setup


def test_cluster_uses_a_token(cluster: dict[str, Any]) -> None:
    options = dict(option.removeprefix("-e ").split("=", 1) for option in cluster["docker"]["run_options"])
    assert options["RAY_AUTH_MODE"] == "token"
    assert options["RAY_AUTH_TOKEN_PATH"] in cluster["file_mounts"]


def test_runtime_env_is_one() -> None:
    settings = documents(INFRA / "runtime_env.yaml")[0]
    assert settings.keys() <= RuntimeEnv.known_fields, "Ray ignores what it does not know"
    assert RuntimeEnv(**settings)["excludes"]
    assert "pip" not in settings, "packages belong in the image: runtime pip installs on every node"


# --- Kubernetes


@named(MANIFESTS)
def test_jobs_only_run_zse(path: Path) -> None:
    for document in documents(path):
        match document["kind"]:
            case "RayJob" | "RayCronJob":
                entrypoints = [node["entrypoint"] for node in mappings(document) if "entrypoint" in node]
                assert entrypoints and all(shlex.split(line)[0] == "zse" for line in entrypoints)
                # KubeRay writes the containers' commands: ray start
                assert not any({"command", "args"} & container.keys() for container in containers(document))
            case "CronJob":  # it makes the RayJob of the same file, and waits for it
                steps = [
                    *containers(document),
                    *next(n["initContainers"] for n in mappings(document) if "containers" in n),
                ]
                assert all(re.match(r"registry\.k8s\.io/kubectl:v[0-9.]+$", step["image"]) for step in steps)
                assert {step["args"][0] for step in steps} == {"delete", "create", "wait"}
            case "Deployment":
                assert all(container["command"][:2] == ["mlflow", "server"] for container in containers(document))
            case kind:
                passive = {"Service", "ServiceAccount", "Role", "RoleBinding", "ConfigMap"}
                assert kind in passive, f"{path.name}: say here what a {kind} may run"


@named(MANIFESTS)
def test_images_and_ray_versions_are_the_pinned_ones(path: Path) -> None:
    expected = f"registry.example.com/zse:{PROJECT['version']}-ray{RAY}"
    for document in documents(path):
        if document["kind"] != "CronJob":
            assert {container["image"] for container in containers(document)} <= {expected}
        assert {node["rayVersion"] for node in mappings(document) if "rayVersion" in node} <= {RAY}


def test_rayjob_cleans_up_and_ends(rayjob: dict[str, Any]) -> None:
    assert rayjob["shutdownAfterJobFinishes"] is True
    assert rayjob["ttlSecondsAfterFinished"] > 0
    assert rayjob["activeDeadlineSeconds"] > rayjob["preRunningDeadlineSeconds"] > 0
    assert rayjob["backoffLimit"] >= 0
    assert rayjob["rayClusterSpec"]["authOptions"] == {"mode": "token"}


def test_rayjob_fits_its_own_cluster(rayjob: dict[str, Any]) -> None:
    options = dict(re.findall(r"--set cluster\.(\w+)=(\d+)", rayjob["entrypoint"]))
    workers, cpus, gpus = (int(options[key]) for key in ("workers", "cpus_per_worker", "gpus_per_worker"))
    groups = rayjob["rayClusterSpec"]["workerGroupSpecs"]

    def total(resource: str) -> int:
        limits = [group["template"]["spec"]["containers"][0]["resources"]["limits"] for group in groups]
        return sum(group["replicas"] * int(limit.get(resource, 0)) for group, limit in zip(groups, limits, strict=True))

    assert workers * gpus == total("nvidia.com/gpu")
    assert workers * cpus < total("cpu"), "Ray Data hangs when training holds every CPU"
    # without autoscaling KubeRay refuses a group that leaves one of them out
    assert all(group["minReplicas"] == group["replicas"] == group["maxReplicas"] for group in groups)


def test_rayjob_object_stores_fit_their_pods(rayjob: dict[str, Any]) -> None:
    spec = rayjob["rayClusterSpec"]
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        memory = quantity(group["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"])
        assert 0.2 * memory <= int(group["rayStartParams"]["object-store-memory"]) <= 0.4 * memory


def test_every_schedule_starts_the_same_job() -> None:
    """And a way to overlap is closed where there is one."""
    (made,) = [d["spec"] for d in documents(INFRA / "kuberay/cronjob-reevaluate.yaml") if d["kind"] == "RayJob"]
    (alpha,) = documents(INFRA / "kuberay/raycronjob-reevaluate.yaml")
    assert alpha["spec"].pop("jobTemplate") == made and alpha["spec"]["schedule"] and alpha["spec"]["timeZone"]
    assert made["shutdownAfterJobFinishes"] is True and made["ttlSecondsAfterFinished"] > 0 <= made["backoffLimit"]
    assert made["activeDeadlineSeconds"] > made["preRunningDeadlineSeconds"] > 0
    assert made["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    cron = documents(INFRA / "kuberay/cronjob-reevaluate.yaml")[0]["spec"]
    assert cron["concurrencyPolicy"] == "Forbid" and cron["schedule"] == alpha["spec"]["schedule"]
    asked = shlex.split(made["entrypoint"])
    parsed = typer.main.get_command(app).commands["reevaluate"].make_context("reevaluate", asked[2:])  # pyright: ignore[reportAttributeAccessIssue]
    assert asked[:2] == ["zse", "reevaluate"] and parsed.params["models"] == "zse@champion,zse@challenger"
    assert not parsed.params["exit_code"], "a retrying scheduler would start clusters over a regression"


def test_mlflow_is_reached_by_the_name_it_allows(rayjob: dict[str, Any]) -> None:
    deployment, service = documents(INFRA / "mlflow/server.yaml")
    (container,) = containers(deployment)
    arguments = dict(argument.split("=", 1) for argument in container["command"] if "=" in argument)
    (port,) = service["spec"]["ports"]
    address = f"{service['metadata']['name']}:{port['port']}"
    assert address in arguments["--allowed-hosts"].split(",")
    assert port["targetPort"] in {item["name"] for item in container["ports"]}
    assert container["ports"][0]["containerPort"] == int(arguments["--port"])
    assert service["spec"]["selector"].items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    uris = {
        variable["value"]
        for node in mappings(rayjob)
        for variable in node.get("env", [])
        if variable["name"] == "MLFLOW_TRACKING_URI"
    }
    assert uris == {f"http://{address}"}
    # a Service called mlflow would otherwise set MLFLOW_PORT to tcp://..., which mlflow server refuses
    assert deployment["spec"]["template"]["spec"]["enableServiceLinks"] is False


# --- Dockerfile


def test_dockerfile_pins_agree() -> None:
    (base,) = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)
    installs = re.findall(r"pip install [^&\n]*", DOCKERFILE)
    assert installs and all("-c constraints.txt" in line or "--no-deps" in line for line in installs)
    for name, version in re.findall(r"([\w.-]+)==([\w.]+)", " ".join(installs)):
        assert PINS.get(canonicalize_name(name), Version(version)) == Version(version), name
    assert f"zse:{PROJECT['version']}-ray{RAY}" in DOCKERFILE


def test_dockerfile_is_not_root_and_has_a_health_check() -> None:
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["1000"]
    assert re.search(r"^HEALTHCHECK ", DOCKERFILE, re.MULTILINE)


def test_build_context_holds_what_is_copied() -> None:
    allowed = re.findall(r"^!(\S+)", (INFRA / "docker/Dockerfile.dockerignore").read_text(), re.MULTILINE)
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()]
    assert sorted(copied) == sorted(allowed)
    assert PROJECT["readme"] in copied, "pip cannot build the package without it"


# --- secrets


def find_secrets(text: str) -> list[str]:
    return [found.group() for pattern in SECRETS for found in pattern.finditer(text)]


@named(TEXT_FILES)
def test_no_literal_secrets(path: Path) -> None:
    assert find_secrets(path.read_text()) == []


@named(MANIFESTS)
def test_secret_variables_are_references(path: Path) -> None:
    for document in documents(path):
        assert document["kind"] != "Secret"
        for node in mappings(document):
            for variable in node.get("env", []):
                secret = re.search("SECRET|PASSWORD|TOKEN|ACCESS_KEY|BACKEND_STORE_URI", variable["name"])
                assert not secret or "valueFrom" in variable, variable["name"]


@pytest.mark.parametrize(
    "text",
    [
        "AKIA" + "Q" * 16,
        "-----BEGIN RSA " + "PRIVATE KEY-----",
        "uri: postgresql://mlflow:" + "hunter2@db/mlflow",
        "password: " + "correcthorse",
        "AWS_SECRET_ACCESS_KEY=" + "wJalrXUtnFEMIK7MDENG",
        "-e RAY_AUTH_TOKEN=" + "0123456789abcdef",
    ],
)
def test_planted_secrets_are_found(text: str) -> None:
    assert find_secrets(text)


def test_every_documented_override_is_a_field_of_its_experiment() -> None:
    """`--set` keys of the manifests, the README and the docs, through the real configuration."""
    from pipelines.config import load_experiment

    found = 0
    for path in [*INFRA.rglob("*.yaml"), ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = path.read_text().replace("\\\n", " ")
        for command in re.findall(r"zse (?:run|train|evaluate|ingest)[^\n`]*(?:\n +--[^\n`]*)*", text):
            experiment = re.search(r"--experiment (\S+)", command)
            sets = [s for s in re.findall(r"--set[ =]([\w.]+=[^\s\"'`,]+)", command) if not s.endswith("...")]
            sets = ["backbone.weights=hub" if s.startswith("backbone.weights") else s for s in sets]
            if experiment and "|" not in experiment[1]:
                load_experiment(experiment[1], sets)
                found += len(sets)
    assert found >= 6

"""The machines' files against Ray's own schema, the pinned versions and each other. Nothing is started."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.runtime_env import RuntimeEnv

from tests.infra.debian_root import stage

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
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
    return list(yaml.safe_load_all(path.read_text()))


def mappings(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping anywhere inside a YAML document."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from mappings(child)


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return documents(ROOT / "ray_cluster.yaml")[0]


@named(YAML_FILES)
def test_yaml_parses(path: Path) -> None:
    assert all(isinstance(document, dict) for document in documents(path))


# --- constraints.txt


def test_constraints_pin_every_dependency() -> None:
    dependencies = [*PROJECT["dependencies"], *sum(PROJECT["optional-dependencies"].values(), [])]
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
    assert "-c /home/ray/zse/constraints.txt '/home/ray/zse[index,weights]'" in setup


def test_cluster_uses_a_token(cluster: dict[str, Any]) -> None:
    options = dict(option.removeprefix("-e ").split("=", 1) for option in cluster["docker"]["run_options"])
    assert options["RAY_AUTH_MODE"] == "token"
    assert options["RAY_AUTH_TOKEN_PATH"] in cluster["file_mounts"]


def test_runtime_env_is_one() -> None:
    settings = documents(INFRA / "runtime_env.yaml")[0]
    assert settings.keys() <= RuntimeEnv.known_fields, "Ray ignores what it does not know"
    assert RuntimeEnv(**settings)["excludes"]
    assert "pip" not in settings, "packages belong in the image: runtime pip installs on every node"


# --- Dockerfile


def test_dockerfile_pins_agree() -> None:
    stages = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", stages[0])
    assert stages[1:] == ["torch-cuda", "torch-${TORCH}"], "all else is built on the first"
    installs = re.findall(r"pip install [^&\n]*", DOCKERFILE)
    assert installs and all("-c constraints.txt" in line or line.endswith("--no-deps .") for line in installs)
    for kind in ("cpu", "cuda"):
        assert f"zse-{kind}:{PROJECT['version']}-ray{RAY}" in DOCKERFILE


def test_dockerfile_is_not_root_and_has_a_health_check() -> None:
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["1000"]
    assert re.search(r"^HEALTHCHECK ", DOCKERFILE, re.MULTILINE)


def test_build_context_holds_what_is_copied() -> None:
    allowed = re.findall(r"^!(\S+)", (INFRA / "docker/Dockerfile.dockerignore").read_text(), re.MULTILINE)
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE) for name in line.split()]
    assert sorted(copied) == sorted(allowed)
    assert PROJECT["readme"] in copied, "pip cannot build the package without it"


def test_steps_of_each_image_are_those_that_a_debian_root_does() -> None:
    text = (INFRA / "docker/Dockerfile").read_text()
    (base, cuda), (_, cpu) = (stage(text, {"TORCH": torch}) for torch in ("cuda", "cpu"))
    assert stage(text, {}) == (base, cuda) and base.startswith("python:3.11.")
    assert "whl/cpu" in cpu[3][1] and [step for step in cpu if step != cpu[3]] == cuda
    assert {word for word, _ in cpu} <= {"RUN", "COPY", "ENV", "ARG", "WORKDIR", "USER", "HEALTHCHECK", "CMD"}


# --- secrets


def find_secrets(text: str) -> list[str]:
    return [found.group() for pattern in SECRETS for found in pattern.finditer(text)]


@named(TEXT_FILES)
def test_no_literal_secrets(path: Path) -> None:
    assert find_secrets(path.read_text()) == []


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
    from pipelines.config.load import load_experiment

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

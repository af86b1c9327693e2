"""compose.yaml against the published schema and itself. Nothing is started."""

import re
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.infra.published import refusals
from tests.infra.test_manifests import INFRA, PROJECT, RAY, ROOT

GIB = 2**30


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((INFRA / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return compose["services"]


def option(service: dict[str, Any], name: str) -> str:
    (found,) = [one.removeprefix(f"{name}=") for one in service["command"] if one.startswith(f"{name}=")]
    return found


def published(service: dict[str, Any]) -> str:
    (port,) = service["ports"]
    return port.rsplit(":", 1)[1]


def test_compose_is_valid_by_the_published_schema(compose: dict[str, Any]) -> None:
    assert refusals(compose, "compose") == []


@pytest.mark.parametrize(
    "mistake",
    [{"helthcheck": {}}, {"restart": ["always"]}, {"depends_on": {"s3": {"condition": "service_helthy"}}}],
    ids=lambda mistake: next(iter(mistake)),
)
def test_a_planted_mistake_is_refused(compose: dict[str, Any], mistake: dict[str, Any]) -> None:
    services = compose["services"]
    assert refusals(compose | {"services": services | {"s3": services["s3"] | mistake}}, "compose")


def test_services_name_each_other(compose: dict[str, Any], services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service.get("depends_on", {}).keys() <= services.keys(), name
    environment = services["ray-head"]["environment"]
    store, mlflow = urlsplit(environment["AWS_ENDPOINT_URL"]), urlsplit(environment["MLFLOW_TRACKING_URI"])
    assert store.hostname == option(services["s3"], "-ip") == "s3" and str(store.port) == published(services["s3"])
    assert mlflow.netloc in option(services["mlflow"], "--allowed-hosts").split(",")
    assert str(mlflow.port) == option(services["mlflow"], "--port") == published(services["mlflow"])
    buckets = {option(services["mlflow"], "--artifacts-destination"), environment["ZSE_WORKSPACE"]}
    assert {urlsplit(url).netloc for url in buckets} == {option(services["s3"], "-bucket")}
    database = urlsplit(services["mlflow"]["environment"]["MLFLOW_BACKEND_STORE_URI"])
    postgres = services["postgres"]["environment"]
    assert database.scheme == "postgresql+psycopg2" and database.hostname == "postgres"
    assert (database.username, database.path) == (postgres["POSTGRES_USER"], f"/{postgres['POSTGRES_DB']}")
    assert services["mlflow"]["environment"]["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false", "1.8 GB of memory"
    assert services["mlflow"]["environment"]["PGPASSWORD"] == postgres["POSTGRES_PASSWORD"]
    held = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", [])]
    assert sorted(held) == sorted(compose["volumes"])


def test_ray_is_one_cluster_with_a_token(services: dict[str, dict[str, Any]]) -> None:
    port = option(services["ray-head"], "--port")
    assert option(services["ray-head"], "--num-cpus") == "0", "tasks on the head starve the drivers"
    for name in ("ray-cpu", "ray-gpu"):
        assert option(services[name], "--address") == f"ray-head:{port}"
    submit = services["zse"]
    assert submit["entrypoint"] == ["ray", "job", "submit", "--address=http://ray-head:8265", "--"]
    assert submit["command"][0] == "zse" and submit["profiles"] and submit["restart"] == "no"
    assert published(services["ray-head"]) == "8265"
    for name in ("ray-head", "ray-cpu", "ray-gpu", "zse"):
        assert services[name]["environment"]["RAY_AUTH_MODE"] == "token"
    for name in ("ray-head", "ray-cpu", "ray-gpu"):
        assert int(option(services[name], "--object-store-memory")) < int(services[name]["shm_size"][:-2]) * GIB


def test_images_are_pinned_services_recover_and_no_port_is_open(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        if "build" in service:
            torch = service["build"]["args"]["TORCH"]
            assert service["image"] == f"registry.example.com/zse-{torch}:{PROJECT['version']}-ray{RAY}"
            assert (torch == "cuda") == ("deploy" in service)
            assert (ROOT / "infra" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        assert re.search(r":\d+\.\d+\S*$", service["image"]), f"{name}: {service['image']}"
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        if name != "zse":
            assert service["restart"] == "unless-stopped"
            assert "healthcheck" in service or "build" in service, "the Dockerfile has one for Ray"


def test_secrets_come_from_the_env_file(services: dict[str, dict[str, Any]]) -> None:
    asked = set()
    for service in services.values():
        for name, value in service.get("environment", {}).items():
            if re.search("SECRET|PASSWORD|TOKEN|ACCESS_KEY", name):
                asked.add(re.fullmatch(r"\$\{(\w+):\?[^}]+\}", value)[1])
    written = re.search(r"infra/\.env <<END\n(.*?)\nEND\n", (ROOT / "docs/operating.md").read_text(), re.DOTALL)
    assert written and asked == set(re.findall(r"^(\w+)=", written[1], re.MULTILINE))
    assert "/infra/.env" in (ROOT / ".gitignore").read_text().splitlines()

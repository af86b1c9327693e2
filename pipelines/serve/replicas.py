"""Run replicas of the service on a Ray cluster, by Ray Serve, until SIGTERM or Ctrl-C: `zse serve --on ray`.

A replica is a process with the model and the index of its own, and answers as `run.py`'s does. Ray's proxy costs some
4 ms a request, and uses more than one machine.
"""

from __future__ import annotations

import signal
import threading
from typing import Any

import ray
from fastapi import FastAPI
from ray import serve

from pipelines.runtime import ray_tasks
from pipelines.runtime.cluster import ClusterConfig
from pipelines.runtime.progress import say
from pipelines.serve.app import create_app
from pipelines.serve.guard import TOKEN, token_of_environment
from pipelines.serve.run import guarded
from pipelines.serve.service import Settings
from zse_model.errors import ZseError

NAME = "zse"
CONTROLLER = "SERVE_CONTROLLER_ACTOR"  # Ray Serve's own
GRACE = 30.0  # s that running requests of a replica may take at its end


def serve_replicas(settings: Settings, host: str, port: int, replicas: int) -> None:
    """Answer requests by `replicas` processes of the cluster, until the process is told to end.

    Every node that has a replica needs the token of this process in its own environment, which no setting carries.
    Raises ZseError if the replicas cannot be started.
    """
    settings, token = guarded(settings, host)
    ray_tasks.connect(ClusterConfig(workers=replicas, cpus_per_worker=1))
    if CONTROLLER in {_name(actor) for actor in ray.util.list_named_actors(all_namespaces=True)}:
        raise ZseError(
            "Ray Serve runs on this cluster already, with an address of its own. End it with `serve shutdown`, or use "
            "another cluster"
        )
    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= replicas else 0
    serve.start(
        http_options={"host": host, "port": port, "location": "HeadOnly"}, logging_config={"log_level": "WARNING"}
    )
    needs_token = token is not None

    def app() -> FastAPI:  # a function: Ray takes any other callable for the app itself
        return _app(settings, needs_token)

    deployment: Any = serve.deployment(
        serve.ingress(app)(),
        name="search",
        num_replicas=replicas,
        ray_actor_options={"num_cpus": 1, "num_gpus": gpus},
        max_ongoing_requests=4 * settings.waiting,  # thumbnails and probes count, too: the app itself limits searches
        max_queued_requests=4 * settings.waiting,
        graceful_shutdown_timeout_s=GRACE,
        max_constructor_retry_count=1,
    )
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        try:
            serve.run(deployment.bind(), name=NAME)
        except RuntimeError as error:
            raise ZseError(f"The replicas could not be started: {error}") from error
        say(f"http://{host}:{port} opens the page. {replicas} replicas answer. Ctrl-C ends them")
        ended.wait()
    finally:
        serve.shutdown()


def _name(actor: Any) -> str:
    """Of {namespace, name}, as `list_named_actors` gives all namespaces: Ray's annotation is of one."""
    return actor["name"]


def _app(settings: Settings, needs_token: bool) -> FastAPI:
    """The app of a replica, in its process."""
    token = token_of_environment()
    if needs_token and token is None:
        raise ZseError(f"{TOKEN} is not set on this node. Set it on every node, and start Ray again")
    return create_app(settings, token)

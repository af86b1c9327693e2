"""How the samples of this folder were written: once, by the code of commit c8e7e22, and never again by newer code.

They stand for what users have kept. A later format gets a folder of its own beside this one, written by its own
script; this one is a record, and need not run with today's code. From a checkout of that commit:

    PYTHONPATH=. python .../tests/kept/v1/write.py

Everything was written at /tmp/zse-kept, because manifests and MLflow's database hold absolute paths, and copied here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipelines import shards
from pipelines.cluster import connect
from pipelines.compare import Report, compare_reports
from pipelines.config import load_experiment
from pipelines.gallery import index
from pipelines.jobs.run import Outputs, run
from pipelines.loaders import ShardSource, encode_pictures
from pipelines.members import read_members, read_pictures
from pipelines.pictures import decode_pixels
from pipelines.tracking import Store
from pipelines.tracking.registry import register, set_champion
from zse_model.checkpoint import load_checkpoint
from zse_model.synthetic import draw_photo

HERE, ROOT = Path(__file__).parent, Path("/tmp/zse-kept")
WORKSPACE = str(ROOT / "workspace")


def main() -> None:
    ROOT.mkdir()
    for name in ("maps.yaml", "tokens.yaml"):
        shutil.copy(HERE / name, ROOT)
    write_inputs()
    connect()
    outputs = {}
    for name in ("maps", "tokens"):
        sys.argv = ["zse", "run", "--experiment", str(ROOT / f"{name}.yaml"), "--workspace", WORKSPACE]
        outputs[name] = run(load_experiment(sys.argv[3]), WORKSPACE)
    maps = outputs["maps"]
    store = Store.at(WORKSPACE)
    set_champion(store, register(store, maps.checkpoints["global"], "zse"))
    gallery = index(str(ROOT / "gallery"), maps.checkpoints["crossatnet"], WORKSPACE)
    expected = describe(outputs, gallery)
    (ROOT / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")
    leave_out(store)
    shutil.copytree(ROOT, HERE, dirs_exist_ok=True)


def leave_out(store: Store) -> None:
    """What would make the samples large: drawn sheets and charts, and the code in all models but the registered one."""
    (registered,) = store.client.search_model_versions("name='zse'")
    for model in (ROOT / "workspace" / "mlartifacts").glob("*/models/*"):
        if model.name != registered.source.removeprefix("models:/"):
            shutil.rmtree(model / "artifacts" / "code")
    for drawn in [*ROOT.glob("workspace/**/sheets"), *ROOT.glob("workspace/**/charts")]:
        shutil.rmtree(drawn)
    for cache in [*ROOT.rglob("__pycache__")]:
        shutil.rmtree(cache)
    with sqlite3.connect(ROOT / "workspace" / "mlflow.db") as database:
        database.execute("VACUUM")


def write_inputs() -> None:
    """Class vectors, and photos to search."""
    names = ["airplane", "bicycle", "car", "umbrella", "rabbit", "fish", "teapot", "church", "cup", "key"]
    vectors = np.random.default_rng(0).normal(size=(len(names), 8)).astype(np.float32)
    np.savez(ROOT / "vectors.npz", names=np.array(names), drawn=vectors)
    (ROOT / "gallery").mkdir()
    for name in ("fish", "teapot", "church"):
        Image.fromarray(draw_photo(name, 7, size=48)).save(ROOT / "gallery" / f"{name}.png")


def describe(outputs: dict[str, Outputs], gallery: str) -> dict[str, Any]:
    """What opening the samples has to give."""
    maps, tokens = outputs["maps"], outputs["tokens"]
    source = shards.read_manifest(maps.images, "zse ingest")
    members = read_members(maps.images, source)
    pictures = read_pictures(maps.images, source, members)
    pixels = {str(id): sha(decode_pixels(data)) for id, data in zip(members.id, pictures, strict=True)}
    pairs = shards.read_manifest(maps.pairs, "zse shard")
    batch = ShardSource(maps.pairs, pairs, 4, 0).batch(0, 0, 1)
    checkpoints = {
        **{f"maps/{name}": folder for name, folder in maps.checkpoints.items()},
        **{f"tokens/{name}": folder for name, folder in tokens.checkpoints.items()},
    }
    unseen = np.isin(members.category, ["fish", "teapot", "church"])
    asked = {m: members.where(unseen & (members.modality == m)) for m in ("sketch", "photo")}
    inputs = {m: read_pictures(maps.images, source, who) for m, who in asked.items()}
    compared = compare_reports(*([Report(name, folder)] for name, folder in list(maps.reports.items())[:2]))
    return {
        "images": maps.images,
        "pairs": maps.pairs,
        "checkpoints": checkpoints,
        "encodings": {**prefixed("maps", maps.encodings), **prefixed("tokens", tokens.encodings)},
        "reports": {**prefixed("maps", maps.reports), **prefixed("tokens", tokens.reports)},
        "gallery": gallery,
        "fingerprint": source["fingerprint"],
        "split_hash": pairs["split_hash"],
        "pixels": pixels,
        "batch": {name: sha(value.numpy()) for name, value in vars(batch).items()},
        "ids": {m: [str(id) for id in who.id] for m, who in asked.items()},
        "scores": {name: scores(folder, inputs) for name, folder in checkpoints.items()},
        "digests": {name: load_checkpoint(folder).digest for name, folder in checkpoints.items()},
        "compared": [[c.setting, c.protocol, c.metric, *c.modes, *c.means, c.difference.value] for _, c in compared],
    }


def prefixed(experiment: str, folders: dict[str, str]) -> dict[str, str]:
    return {f"{experiment}/{name}": folder for name, folder in folders.items()}


def sha(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def scores(folder: str, inputs: dict[str, list[bytes]]) -> dict[str, list[list[float]]]:
    """By mode, of the unseen sketches with the unseen photos."""
    method = load_checkpoint(folder).method
    sketches, photos = (
        encode_pictures(lambda x, m=m: method.encode(x, m), inputs[m], 64)  # type: ignore[arg-type]
        for m in ("sketch", "photo")
    )
    with torch.inference_mode():
        return {mode: method.score(sketches, photos, mode).tolist() for mode in method.modes}


if __name__ == "__main__":
    main()

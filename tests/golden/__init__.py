"""Outputs of the published code for weights that are made from their names: data in README.md's words."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).parent


def reference() -> dict[str, np.ndarray]:
    """The arrays of zse_reference.npz."""
    with np.load(FOLDER / "zse_reference.npz") as arrays:
        return {key: arrays[key] for key in arrays}


def recipe_state(prefix: str = "") -> dict[str, Tensor]:
    """Every weight of the published network under its public name, or those whose names begin with `prefix`: float32,
    each drawn from its name alone."""
    entries = json.loads((FOLDER / "reference_state.json").read_text())["entries"]
    state = {}
    for entry in (entry for entry in entries if entry["name"].startswith(prefix)):
        rng = np.random.Generator(np.random.PCG64(zlib.crc32(entry["name"].encode())))
        values = entry["offset"] + entry["scale"] * rng.standard_normal(entry["shape"])
        state[entry["name"]] = torch.from_numpy(values.astype(np.float32))
    return state

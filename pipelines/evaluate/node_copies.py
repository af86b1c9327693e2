"""Read each part of the encodings once on a node. The workers of the node share the copy in Ray's object store. `score`
calls this module.

One actor of each node reads. It keeps the parts that were used last, up to half of the node's object store. A part that
was dropped is read again when it is asked for, so encodings of any size are scored without spilling to a disk.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import ray
import torch
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.workspace.encodings import Encodings
from zse_model.methods import Encoding

Read = Callable[[str, str, Sequence[str]], Encoding]
"""Part, modality and names -> encodings, as `Encodings.values` returns them."""

SHARE = 0.5  # of a node's object store; the rest is for parts in use and for Ray Data's blocks
AT_ONCE = 4  # parts that the reader of a node reads at once
ATTEMPTS = 3  # to get a part from the reader of the node, which may have ended with the worker that started it


def reads_of(encodings: Encodings) -> Read:
    """How this process reads parts: a worker of a cluster through the reader of its node, another process itself."""
    if ray.is_initialized() and ray.get_runtime_context().worker.mode == ray.WORKER_MODE:
        return NodeCopies(encodings)
    return encodings.values


class NodeCopies:
    """Reads parts through the reader of this node, which the first worker of the node starts."""

    def __init__(self, encodings: Encodings) -> None:
        self.encodings, self.node = encodings, ray.get_runtime_context().get_node_id()
        self.reader: Any = None  # held, because the reader ends with the last handle of the worker that started it

    def __call__(self, part: str, modality: str, names: Sequence[str]) -> Encoding:
        """Views of the node's copy, to be read only. Raises StorageError as `Encodings.values` does."""
        for _ in range(ATTEMPTS):
            try:
                self.reader = self.reader or self._reader()
                found: Any = ray.get(self.reader.read.remote(part, modality, tuple(names)))
                copy: Any = ray.get(found[0])
                return {name: _view(array) for name, array in copy.items()}
            except (RayActorError, ObjectLostError):
                self.reader = None
            except RayTaskError as error:  # the reader's own error says what failed and what to do
                raise error.cause from error
        return self.encodings.values(part, modality, names)

    def _reader(self) -> Any:
        resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == self.node)
        return (
            ray.remote(Reader)
            .options(
                name=f"zse-reader-{self.encodings.name}-{self.node}",
                get_if_exists=True,
                num_cpus=0,  # the actors with a network may hold all CPUs
                max_concurrency=AT_ONCE,
                scheduling_strategy=NodeAffinitySchedulingStrategy(self.node, soft=False),
            )
            .remote(self.encodings, int(SHARE * resources["object_store_memory"]))
        )


class Reader:
    """The actor of a node that reads parts into the object store."""

    def __init__(self, encodings: Encodings, most: int) -> None:
        """most: bytes to keep."""
        self.encodings, self.most = encodings, most
        self.kept: OrderedDict[tuple[Any, ...], tuple[int, ray.ObjectRef]] = OrderedDict()
        self.reading: dict[tuple[Any, ...], threading.Lock] = {}
        self.changing = threading.Lock()

    def read(self, part: str, modality: str, names: tuple[str, ...]) -> list[ray.ObjectRef]:
        """A list with the reference to the part: Ray would resolve a reference that is returned by itself."""
        key = (part, modality, names)
        with self.changing:
            reading = self.reading.setdefault(key, threading.Lock())
        with reading:  # a second worker that asks for the part waits for the first one's copy
            with self.changing:  # another part may push this one out at any time
                if key in self.kept:
                    self.kept.move_to_end(key)
                    return [self.kept[key][1]]
            values = self.encodings.values(part, modality, names)
            return [self._keep(key, {name: value.numpy() for name, value in values.items()})]

    def _keep(self, key: tuple[Any, ...], values: dict[str, np.ndarray]) -> ray.ObjectRef:
        size = sum(value.nbytes for value in values.values())
        with self.changing:
            while self.kept and size + sum(kept for kept, _ in self.kept.values()) > self.most:
                self.kept.popitem(last=False)
            self.kept[key] = size, (copy := ray.put(values))
        return copy


def _view(array: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)

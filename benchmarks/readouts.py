"""Which readout of a trained `global` ranks better on its pseudo-unseen classes: the pooled feature or the head.

    python -m benchmarks.readouts CHECKPOINT [CHECKPOINT ...]

Both are read from the same weights; no test class is touched.
"""

from __future__ import annotations

import dataclasses
import sys

from pipelines.store import storage
from pipelines.train.selection import Selection
from zse_model.checkpoint import load_checkpoint


def main() -> None:
    for url in sys.argv[1:]:
        checkpoint = load_checkpoint(url)
        run = storage.read_json(storage.join(url, "run.json"))
        images = storage.read_json(storage.join(run["images"], "manifest.json"))
        selection = Selection(run["images"], images, checkpoint.split, 64)
        for readout in ("pooled", "head"):
            checkpoint.method.config = dataclasses.replace(checkpoint.method.config, readout=readout)
            found = selection(checkpoint.method)
            print(f"{checkpoint.training['run']} {readout}: mAP_all {found['selection/mAP_all']:.3f}")


if __name__ == "__main__":
    main()

"""Compare the readouts of a trained `global`, pooled feature and head, on its pseudo-unseen classes.

    python -m benchmarks.readouts CHECKPOINT [CHECKPOINT ...]

Both use the same weights. No test class is read.
"""

from __future__ import annotations

import dataclasses
import sys

from pipelines.train.selection import Selection
from pipelines.workspace.images import Images
from pipelines.workspace.training import Training
from zse_model.checkpoint import load_checkpoint


def main() -> None:
    for url in sys.argv[1:]:
        checkpoint = load_checkpoint(url)
        images = Images.open(Training.open(url).images())
        selection = Selection(images, checkpoint.split, 64)
        for readout in ("pooled", "head"):
            checkpoint.method.config = dataclasses.replace(checkpoint.method.config, readout=readout)
            found = selection(checkpoint.method)
            print(f"{checkpoint.training['run']} {readout}: mAP_all {found['selection/mAP_all']:.3f}")


if __name__ == "__main__":
    main()

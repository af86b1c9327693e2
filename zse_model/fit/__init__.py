"""The training loop. It knows neither the method (it sums named losses) nor the cluster (it has a `WorkerContext`).

Everything a step depends on is a function of (config, step, rank, world size): the batch, the learning rate, the random
numbers of dropout. So a run that was killed and resumed ends with the weights of one that was not.

    trainer.py       `fit`: restore, step, check, keep
    config.py        how long and how fast
    context.py       the place of a worker: alone in a process, or one of many on a cluster
    state.py         what a resumed run continues from, and the best weights so far
    optimisation.py  groups of parameters and the learning rate
    progress.py      batches read ahead, CPU seconds, means of losses, the watchdog
"""

from zse_model.fit.config import TrainConfig
from zse_model.fit.context import BatchSource, LocalContext, WorkerContext
from zse_model.fit.progress import prefetch
from zse_model.fit.state import (
    BEST_FILE,
    OPTIMIZER_FILE,
    STATE_FILE,
    WEIGHTS_FILE,
    FitState,
    NonFiniteLossError,
    SelectionError,
    TrainingError,
)
from zse_model.fit.trainer import fit

__all__ = [
    "BEST_FILE",
    "OPTIMIZER_FILE",
    "STATE_FILE",
    "WEIGHTS_FILE",
    "BatchSource",
    "FitState",
    "LocalContext",
    "NonFiniteLossError",
    "SelectionError",
    "TrainConfig",
    "TrainingError",
    "WorkerContext",
    "fit",
    "prefetch",
]

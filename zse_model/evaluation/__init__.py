"""Retrieval evaluation: rankings and metrics of scores. No other module computes a metric."""

from zse_model.evaluation.evaluate import Evaluation, Task, evaluate_scores
from zse_model.evaluation.metrics import (
    PairedDifference,
    bootstrap_interval,
    expected_average_precision,
    paired_difference,
)
from zse_model.evaluation.protocol import (
    CATEGORY_METRICS,
    HEADLINES,
    INSTANCE_METRICS,
    LEADING,
    METRICS,
    PROTOCOLS,
    Protocol,
)
from zse_model.evaluation.search import Ranking, merge, order, rank

__all__ = [
    "CATEGORY_METRICS",
    "HEADLINES",
    "INSTANCE_METRICS",
    "LEADING",
    "METRICS",
    "PROTOCOLS",
    "Evaluation",
    "PairedDifference",
    "Protocol",
    "Ranking",
    "Task",
    "bootstrap_interval",
    "evaluate_scores",
    "expected_average_precision",
    "merge",
    "order",
    "paired_difference",
    "rank",
]

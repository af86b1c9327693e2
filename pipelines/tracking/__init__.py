"""Track trainings, evaluations and registered models in MLflow. Only this package and the ranker import mlflow."""

from pipelines.tracking.models import NotEvaluatedError, checkpoint_of, described, reports_of
from pipelines.tracking.runs import TrainingRun, deliver_evaluation, deliver_training, settle
from pipelines.tracking.store import Store, TrackingError, reachable, tracking_uri, translated, ui_command

__all__ = [
    "NotEvaluatedError",
    "Store",
    "TrackingError",
    "TrainingRun",
    "checkpoint_of",
    "deliver_evaluation",
    "deliver_training",
    "described",
    "reachable",
    "reports_of",
    "settle",
    "tracking_uri",
    "translated",
    "ui_command",
]

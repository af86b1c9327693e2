"""The verbs that run an experiment: one stage or all stages; and the lists of experiments and methods."""

from __future__ import annotations

import json
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import (
    CHECKPOINT,
    WORKSPACE,
    Experiment,
    Report,
    Set,
    Workspace,
    absolute,
    check_output,
    checkpoint_folder,
    given,
    last,
    loaded,
    searched,
)
from pipelines.runtime.commands import command
from pipelines.runtime.progress import say, show
from zse_model.errors import ZseError

if TYPE_CHECKING:
    from pipelines.config.experiment import ExperimentConfig
    from pipelines.run import Outputs


def ingest(experiment: Experiment = "quickstart", workspace: Workspace = WORKSPACE, set_: Set = None) -> None:
    """Read raw pictures into image shards (Parquet). Bad files are skipped, counted and listed.

    Example: `zse ingest -e folder+global --set dataset.source=s3://bucket/pictures --set dataset.split=sketchy-25`
    """
    _stage("ingest", experiment, workspace, set_)


def shard(experiment: Experiment = "quickstart", workspace: Workspace = WORKSPACE, set_: Set = None) -> None:
    """Write pair shards from image shards: planned and augmented training items of the seen classes.

    Example: `zse shard -e folder+global --set dataset.source=/data/pictures --set dataset.split=random-10`
    """
    _stage("shard", experiment, workspace, set_)


def train(
    experiment: Experiment = "quickstart",
    workspace: Workspace = WORKSPACE,
    set_: Set = None,
    overfit: Annotated[
        bool, typer.Option("--overfit", help="Train every step on the first batch: the loss must fall to almost 0.")
    ] = False,
) -> None:
    """Train a checkpoint on pair shards: with DDP by Ray Train, or in one process with --set cluster.workers=0.

    An interrupted training resumes from its last saved state: run the same command again. Set the budget with
    --set train.steps=2000 or --set train.minutes=15 (CPU minutes over all workers).

    Example: `zse train -e quickstart --set train.steps=200`
    """
    _stage("train", experiment, workspace, [*(set_ or []), *(["train.overfit=true"] if overfit else [])])


def embed(
    experiment: Experiment = "quickstart",
    workspace: Workspace = WORKSPACE,
    set_: Set = None,
    gallery: Annotated[
        str | None, typer.Option("--gallery", help="Encode the photos of this folder or URL instead.")
    ] = None,
    checkpoint: Annotated[str | None, typer.Option("--checkpoint", "-c", help=f"With --gallery: {CHECKPOINT}")] = None,
) -> None:
    """Encode the sketches and photos of the tested classes with the experiment's checkpoint, each once.

    With --gallery and --checkpoint: encode your own photos. The output is an index for `zse search` and the registered
    model.

    Example: `zse embed --gallery s3://bucket/photos --checkpoint models:/zse@champion`
    """
    if gallery is None and checkpoint is None:
        _stage("embed", experiment, workspace, set_)
        return
    if gallery is None or checkpoint is None:
        raise ZseError("--gallery and --checkpoint go together: give the photos and the model that encodes them")
    from pipelines.encode.gallery import gallery_index

    folder = gallery_index(gallery, checkpoint_folder(checkpoint, workspace), workspace)
    last(folder, command("search", "--sketch", "FILE", *searched(gallery, checkpoint, workspace)))


def evaluate(
    experiment: Experiment = "quickstart",
    workspace: Workspace = WORKSPACE,
    set_: Set = None,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", "-c", help=f"Evaluate this model instead of the experiment's own: {CHECKPOINT}"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--settings", help="With --checkpoint: a published setting's name, or all. Repeatable."),
    ] = None,
    datasets: Annotated[
        str | None,
        typer.Option(
            "--datasets", metavar="FILE", help="With --settings: YAML with the folder or URL of each data set."
        ),
    ] = None,
    report: Report = None,
) -> None:
    """Write a report from encodings: all metrics of all protocols with intervals, per class and query, and pictures.

    A checkpoint that has seen a tested class or picture is refused.

    Example: `zse evaluate -e folder+global --checkpoint workspace/checkpoints/... --settings all --datasets data.yaml`
    """
    from pipelines import run as stages
    from pipelines.runtime.errors import ConfigError

    check_output("--report", report)
    config = loaded(experiment, set_, workspace)
    if checkpoint is not None:
        checkpoint = checkpoint_folder(checkpoint, workspace, config.tracking.uri)
    if settings or datasets:
        if not settings or checkpoint is None or datasets is None:
            raise ConfigError(
                "--settings, --datasets and --checkpoint go together: give all three, or neither of the first two"
            )
        _evaluate_settings(config, workspace, checkpoint, settings, datasets, report)
        return
    if checkpoint is None:
        out = stages.run(config, workspace)
    else:
        out = stages.evaluate_checkpoint(config, workspace, checkpoint)
    _finish_evaluation(config, workspace, out, report)


def run(
    experiment: Experiment = "quickstart",
    workspace: Workspace = WORKSPACE,
    set_: Set = None,
    report: Report = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the experiment and estimate bytes and GPU hours; write nothing.")
    ] = False,
    tflops: Annotated[
        float | None,
        typer.Option("--tflops", help="With --dry-run: matrix TFLOP/s of one GPU. Default: 60 in fp32, 400 in bf16."),
    ] = None,
    utilisation: Annotated[
        float, typer.Option("--utilisation", help="With --dry-run: share of --tflops that a run reaches, 0 to 1.")
    ] = 0.35,
) -> None:
    """Run the stages ingest, shard, train, embed and evaluate of an experiment; skip finished stages.

    Example: `zse run -e folder+global -w s3://bucket/zse -s dataset.source=s3://bucket/pics -s dataset.split=random-10`

    `--dry-run` lists the data, resolves the split, builds the networks without memory and estimates the run's cost.
    """
    check_output("--report", report)
    config = loaded(experiment, set_, workspace)
    if dry_run:
        _estimate(config, workspace, tflops, utilisation)
        last("nothing was written", command("run", *given(experiment, workspace, set_)))
        return
    from pipelines import run as stages

    _finish_evaluation(config, workspace, stages.run(config, workspace), report)


def quickstart(workspace: Workspace = WORKSPACE, set_: Set = None, report: Report = None) -> None:
    """Run an experiment on built-in data, in 5 to 8 minutes on two cores: `zse run -e quickstart`.

    Example: `zse quickstart --workspace workspace --report report.json`
    """
    run("quickstart", workspace, set_, report)


def demo(
    workspace: Workspace = WORKSPACE,
    set_: Set = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="The port of the page; 0 = any free one.")
    ] = 8000,
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="At the end, serve the page until Ctrl-C.")] = True,
) -> None:
    """Draw it, find the emoji: train on drawings for 4 CPU minutes, index every emoji, and serve the page.

    It takes 5 minutes on two cores. 40 classes are unseen: nothing of theirs is trained on, and the page marks them. A
    second run makes nothing again. Needs the extras demo, serve and weights, which `make` installs.

    Example: `zse demo --workspace workspace --port 8000`
    """
    try:
        from pipelines.serve.run import listening
        from pipelines.serve.run import serve as run_service
        from pipelines.serve.service import Settings
    except ModuleNotFoundError as error:
        raise ZseError(f"{error.name} is not installed: pip install 'zse-retrieval[serve]'") from error
    from pipelines.datasets.emoji import CREDIT
    from pipelines.demo import EXPERIMENT, MODE
    from pipelines.demo import demo as make
    from pipelines.judge.results import result_tables

    if serve:
        listening("127.0.0.1", port).close()  # raises for a port that is in use, before minutes of work
    made = make(loaded(EXPERIMENT, set_, workspace), workspace)
    for table in result_tables(made.outputs):
        show(table)
    show(made.found.text())
    options = ["--index", made.index, "--model", made.checkpoint, "--mode", MODE, "--credit", CREDIT]
    serving = command("serve", *options, "--port", str(port))
    if not serve:
        return last(f"{made.index}, an index of {made.found.pictures:,} emoji", serving)
    say(f"Result: {made.index}, an index of {made.found.pictures:,} emoji. To serve it again: {serving}")
    settings = Settings(index=made.index, model=made.checkpoint, workspace=workspace, mode=MODE, credit=CREDIT)
    run_service(settings, "127.0.0.1", port)


def experiments() -> None:
    """List the shipped experiments: the purpose, the backbone and the training cost of each. Takes seconds.

    Example: `zse experiments`
    """
    from pipelines.operate.experiments import described

    for paragraph in described():
        show(paragraph)
    last("docs/experiments.md has the published recipes and ours", command("run", "--dry-run", "-e", "NAME"))


def methods() -> None:
    """List the methods and their retrieval modes, with the score and the cost of each mode.

    Example: `zse methods`
    """
    from zse_model.diffusion import MOST
    from zse_model.methods import METHODS

    for name, method in METHODS.items():
        show(name)
        for mode in method.MODES:
            show(f"    {mode.name:12s}{mode.score} Cost: {mode.cost}.")
    show("all, for each mode but rerank-K")
    show(f"    MODE-diffused-K, such as ret-diffused-500: its K best photos, at most {MOST:,}, are ranked again by")
    show("                how they resemble each other. Cost: K x K dot products a query.")
    last("N: bits of a code; K: photos that are ranked again", command("experiments"))


def _stage(name: str, experiment: str, workspace: str, set_: list[str] | None) -> None:
    from pipelines import run as stages

    out = stages.run(loaded(experiment, set_, workspace), workspace, until=name)
    made = {"ingest": [out.images], "shard": [out.pairs]}.get(name) or (out.encodings or out.checkpoints).values()
    folders = [one.url for one in made if one is not None]
    after = stages.STAGES[stages.STAGES.index(name) + 1]
    last("\n".join(folders), command(after, *given(experiment, workspace, set_)))


def _estimate(config: ExperimentConfig, workspace: str, tflops: float | None, utilisation: float) -> None:
    """Print the cost of a run as far as it is known, then raise every error that would end the run."""
    from pipelines.datasets.registry import create_dataset
    from pipelines.operate import estimate, preflight

    rates, records = estimate.Rates(tflops, utilisation), create_dataset(config.dataset).records()
    problem: ZseError | None = None
    try:
        preflight.check(config, absolute(workspace), records, fresh=True)
    except ZseError as error:
        problem = error
    with suppress(ZseError, OSError) if problem else nullcontext():
        show(estimate.table(estimate.estimate(config, records), rates))
    if problem:
        raise problem


def _evaluate_settings(
    config: ExperimentConfig, workspace: str, checkpoint: str, names: list[str], datasets: str, report: Path | None
) -> None:
    from pipelines.datasets.published import load_settings
    from pipelines.judge import published_settings

    chosen = load_settings(names)
    results = published_settings.evaluate_settings(
        config, workspace, checkpoint, chosen, published_settings.load_datasets(datasets)
    )
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        kept = [
            {
                "name": r.setting.name,
                "refused": r.refused,
                "broken": r.broken,
                "not_comparable": r.difference,
                "rows": list(r.rows),
            }
            for r in results
        ]
        report.write_text(json.dumps(kept, indent=1))
    show(published_settings.settings_table(results))
    done = sum(bool(r.rows) for r in results)
    last(
        f"{done} of {len(results)} settings evaluated, in {workspace}/reports" + (f"; {report}" if report else ""),
        command("search", "--sketch", "FILE", *searched("FOLDER", checkpoint, workspace)),
    )
    if any(r.broken for r in results):
        raise typer.Exit(1)


def _finish_evaluation(config: ExperimentConfig, workspace: str, out: Outputs, report: Path | None) -> None:
    from pipelines.judge.results import result_tables
    from pipelines.store import storage
    from pipelines.tracking import tracking_uri, ui_command

    rows = out.rows()
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        report.write_text(json.dumps(rows, indent=1))
    for table in result_tables(out):
        show(table)
    for name, folder in out.reports.items():
        if name in config.methods:
            say(f"{name}: checkpoint {out.checkpoints[name].url}, report {folder.url}")
    result = str(report) if report else "\n".join(report.url for report in out.reports.values())
    following = [
        command("search", "--sketch", "FILE", *searched("FOLDER", next(iter(out.checkpoints.values())).url, workspace))
    ]
    if config.tracking.enabled:
        pages = ui_command(tracking_uri(storage.absolute(workspace), config.tracking.uri))
        if pages.startswith("mlflow "):
            following.insert(0, pages)
        else:
            result += f"\n{pages}: runs, curves, pictures"
    last(result, *following)

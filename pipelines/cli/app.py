"""The command line. Every verb is one stage; `run` is all of them. Flags choose what to run, the YAML says how.

The stages are imported when a verb runs: `--help` answers at once.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import time
import traceback
import warnings
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.runtime import logs
from pipelines.runtime.commands import command, repeated
from pipelines.runtime.failures import to_mend
from pipelines.runtime.progress import say, show
from pipelines.runtime.redaction import printable
from zse_model.errors import ZseError

if TYPE_CHECKING:
    from pipelines.config.experiment import ExperimentConfig
    from pipelines.run import Outputs

app = typer.Typer(
    name="zse",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Find photos by drawings, of things the model was never trained on.\n\n"
    "Start with `zse quickstart`: it draws a small world, trains two methods and searches classes they never saw. "
    "Then point `zse run --experiment folder+global` at a folder with `sketch/<class>/*` and `photo/<class>/*`.",
)

WORKSPACE = os.environ.get("ZSE_WORKSPACE", "workspace")

Experiment = Annotated[
    str, typer.Option("--experiment", "-e", help="A shipped experiment or a YAML file. `zse experiments` lists them.")
]
Workspace = Annotated[
    str, typer.Option("--workspace", "-w", help="Where outputs go: a folder or s3://bucket/prefix. Env: ZSE_WORKSPACE.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="a.b=c", help="Override a field of the experiment; may be given again."),
]
CHECKPOINT = "a folder or URL that `zse train` ended with, or models:/NAME@ALIAS of the registry."
Report = Annotated[Path | None, typer.Option("--report", help="Also write all result rows to this JSON file.")]


@app.command()
def ingest(experiment: Experiment = "quickstart", workspace: Workspace = WORKSPACE, set_: Set = None) -> None:
    """Raw pictures -> image shards (Parquet). Bad files are skipped, counted and named.

    Example: `zse ingest -e folder+global --set dataset.source=s3://bucket/pictures --set dataset.split=sketchy-25`
    """
    _stage("ingest", experiment, workspace, set_)


@app.command()
def shard(experiment: Experiment = "quickstart", workspace: Workspace = WORKSPACE, set_: Set = None) -> None:
    """Image shards -> pair shards: training items planned from the seen classes, augmented, written once."""
    _stage("shard", experiment, workspace, set_)


@app.command()
def train(
    experiment: Experiment = "quickstart",
    workspace: Workspace = WORKSPACE,
    set_: Set = None,
    overfit: Annotated[
        bool, typer.Option("--overfit", help="Every step on the first batch: the loss must go to almost 0.")
    ] = False,
) -> None:
    """Pair shards -> checkpoint. DDP by Ray Train, or one plain process with --set cluster.workers=0.

    An interrupted training goes on where its last checkpoint was: give the same command again. Set a budget by
    --set train.steps=2000 or --set train.minutes=15 (CPU minutes over all workers).
    """
    _stage("train", experiment, workspace, [*(set_ or []), *(["train.overfit=true"] if overfit else [])])


@app.command()
def embed(
    experiment: Experiment = "quickstart",
    workspace: Workspace = WORKSPACE,
    set_: Set = None,
    gallery: Annotated[
        str | None, typer.Option("--gallery", help="Encode this folder of photos instead, to be searched; any URL.")
    ] = None,
    checkpoint: Annotated[str | None, typer.Option("--checkpoint", "-c", help=f"With --gallery: {CHECKPOINT}")] = None,
) -> None:
    """Checkpoint -> encodings of the sketches and photos of the unseen classes, each encoded once.

    Or of a catalogue: `zse embed --gallery s3://bucket/photos --checkpoint models:/zse@champion` ends with an index for
    the registered model.
    """
    if gallery is None and checkpoint is None:
        _stage("embed", experiment, workspace, set_)
        return
    if gallery is None or checkpoint is None:
        raise ZseError("--gallery and --checkpoint go together: the photos, and what encodes them")
    from pipelines.encode.gallery import index

    folder = index(gallery, _checkpoint(checkpoint, workspace), workspace)
    _last(folder, command("search", "--sketch", "FILE", *_searched(gallery, checkpoint, workspace)))


@app.command()
def evaluate(
    experiment: Experiment = "quickstart",
    workspace: Workspace = WORKSPACE,
    set_: Set = None,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", "-c", help=f"Evaluate this one instead of the experiment's own: {CHECKPOINT}"),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--settings", help="Of the checkpoint: all, or a setting's name; may be given again."),
    ] = None,
    datasets: Annotated[
        str | None,
        typer.Option("--datasets", metavar="FILE", help="YAML that says where each setting's data set lies."),
    ] = None,
    report: Report = None,
) -> None:
    """Encodings -> report: every metric of every protocol with intervals, per class and per query, and pictures.

    A checkpoint that has seen a test class or a test picture is refused.

    Example: `zse evaluate -e folder+global --checkpoint workspace/checkpoints/... --settings all --datasets data.yaml`
    """
    from pipelines import run as stages
    from pipelines.runtime.errors import ConfigError

    _check_output("--report", report)
    config = _experiment(experiment, set_, workspace)
    if checkpoint is not None:
        checkpoint = _checkpoint(checkpoint, workspace, config.tracking.uri)
    if settings or datasets:
        if not settings or checkpoint is None or datasets is None:
            raise ConfigError(
                "--settings, --checkpoint and --datasets go together: give all three, or none of the first and the last"
            )
        _evaluate_settings(config, workspace, checkpoint, settings, datasets, report)
        return
    if checkpoint is None:
        out = stages.run(config, workspace)
    else:
        out = stages.evaluate_checkpoint(config, workspace, checkpoint)
    _finish_evaluation(config, workspace, out, report)


@app.command()
def search(
    sketch: Annotated[str, typer.Option("--sketch", help="A drawing: any picture file or URL.")],
    gallery: Annotated[str, typer.Option("--gallery", help="A folder or URL with photos, at any depth.")],
    checkpoint: Annotated[str, typer.Option("--checkpoint", "-c", help=f"What finds: {CHECKPOINT}")],
    workspace: Workspace = WORKSPACE,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="How many photos.")] = 10,
    mode: Annotated[
        str | None,
        typer.Option(
            "--mode",
            help="ret, rerank-100; of zse_sbir also rn, fused; of crossatnet also hash-64, asym-64, itq-64.",
        ),
    ] = None,
    rerank_by: Annotated[
        str | None,
        typer.Option("--rerank-by", metavar="CHECKPOINT", help="Let this checkpoint rank anew what was found."),
    ] = None,
    depth: Annotated[int, typer.Option("--depth", min=1, help="How many it ranks anew.")] = 100,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the picture of the result goes.")] = Path(
        "search.png"
    ),
) -> None:
    """Find the photos that a drawing means. Prints the best and draws them.

    Example: `zse search --sketch cat.png --gallery ~/photos --checkpoint workspace/checkpoints/...`

    Codes of one network find, another one ranks: `--mode asym-64 --rerank-by workspace/checkpoints/... --depth 200`
    """
    from pipelines.search.search import search as find

    _check_output("--out", out)
    finds, ranks = _checkpoint(checkpoint, workspace), rerank_by and _checkpoint(rerank_by, workspace)
    found = find(sketch, gallery, finds, workspace, top=top, mode=mode, picture=out, rerank_by=ranks, depth=depth)
    for i, match in enumerate(found):
        show(f"{i + 1:3d}  {match.score:8.4f}  {printable(match.path)}")
    more = 5 * top
    words = ["--sketch", sketch, *_searched(gallery, checkpoint, workspace), "--top", str(more)]
    if mode:
        words += ["--mode", f"rerank-{more}" if mode.startswith("rerank") else mode]
    if rerank_by:
        words += ["--rerank-by", rerank_by, "--depth", str(max(depth, more))]
    _last(f"Drawn in {out}", command("search", *words, "--out", str(out)))


def _searched(gallery: str, checkpoint: str, workspace: str) -> list[str]:
    """Options that find a gallery's encodings again."""
    return ["--gallery", gallery, "--checkpoint", checkpoint, "--workspace", workspace]


@app.command()
def compare(
    first: Annotated[
        str, typer.Argument(help="A report, a checkpoint, models:/NAME@ALIAS, or the id of an MLflow run.")
    ],
    others: Annotated[list[str], typer.Argument(help="What is compared with it; may be several.")],
    workspace: Workspace = WORKSPACE,
    metric: Annotated[str | None, typer.Option("--metric", help="Only this one, such as mAP_all.")] = None,
    mode: Annotated[
        str | None, typer.Option("--mode", help="Only this one; ret,fused: the first's ret, the others' fused.")
    ] = None,
    setting: Annotated[str | None, typer.Option("--setting", help="Only settings that begin like this.")] = None,
    out: Annotated[
        str, typer.Option("--out", "-o", help="The folder or URL for compare.json and pictures.")
    ] = "compared",
) -> None:
    """Is one model better than another? Paired on the same queries: difference, interval, p, classes won and lost.

    Reads the reports of `zse evaluate`; of a checkpoint those that MLflow knows. Draws the queries that differ most.

    Example: `zse compare models:/zse@champion models:/zse@challenger --metric mAP_all`
    """
    from pipelines.judge.compare_all import compare_all

    _check_output("--out", out, folder=True)
    found = compare_all(first, others, workspace, out, metric=metric, mode=mode, setting=setting)
    for one in found:
        show(one)
    inputs = ["--sketch", "FILE", "--photo", "FILE", "--checkpoint", _explained(others[0]), "--workspace", workspace]
    _last(f"{out}/compare.json, and pictures beside it", command("explain", *inputs))


def _explained(name: str) -> str:
    """What was compared, as `zse explain` takes it: of a report or a run of MLflow the user knows the checkpoint."""
    from pipelines.store.storage import exists, join
    from zse_model.checkpoint import INFO

    return name if name.startswith("models:/") or exists(join(name, INFO)) else "CHECKPOINT"


@app.command()
def promote(
    candidate: Annotated[
        str, typer.Argument(help="models:/NAME@challenger, models:/NAME/VERSION, or with --name a tracked checkpoint.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="The registered model that a checkpoint belongs to.")
    ] = None,
    rules: Annotated[
        str | None,
        typer.Option("--rules", metavar="FILE", help="YAML: better, no_worse, faster. None = the shipped ones."),
    ] = None,
    workspace: Workspace = WORKSPACE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the decision and its reasons; change nothing.")
    ] = False,
    few_classes: Annotated[
        bool,
        typer.Option(
            "--few-classes", help="Let fewer than 10 classes decide, by the difference alone; tags the version."
        ),
    ] = False,
) -> None:
    """Promote a model if rules find it significantly better on selection data and no worse anywhere else.

    Every rule must hold; else the candidate is the challenger. Reads what both were evaluated on: `zse run` evaluates
    the pseudo-unseen classes that the shipped rules choose by. Where something is missing the reason has the command
    that makes it. Without a champion the candidate must beat the reference rows, or chance.

    Example: `zse promote workspace/checkpoints/... --name zse --dry-run`
    """
    from pipelines.judge.promote import promote as decide
    from pipelines.judge.rules import load_rules

    decision = decide(candidate, name, load_rules(rules), workspace, dry_run=dry_run, few_classes=few_classes)
    model = name or candidate.removeprefix("models:/").partition("@")[0].partition("/")[0]
    where = ["--workspace", workspace]
    options = [*(["--name", name] if name else []), *(["--rules", rules] if rules else [])]
    again = command("promote", candidate, *options, *(["--few-classes"] if few_classes else []), *where)
    if decision.promoted:
        said = f"{'would become' if dry_run else 'is'} the champion of {model}"
        found = ["search", "--sketch", "FILE", "--gallery", "FOLDER", "--checkpoint", f"models:/{model}@champion"]
        following = again if dry_run else command(*found, *where)
    elif decision.champion is None:
        said, following = f"is not promoted: {model} has no champion yet", f"{again} --dry-run" if dry_run else again
    else:
        said = f"is not promoted: {model} keeps its champion"
        following = command("compare", f"models:/{model}@champion", candidate, *where)
    _last(f"{candidate} {said}", following)


@app.command()
def reevaluate(
    catalog: Annotated[
        str, typer.Option("--catalog", help="Each folder in it is a data set, with dataset.yaml if it needs one.")
    ],
    models: Annotated[
        str, typer.Option("--models", help="With commas between: zse@champion, models:/zse/3, or a checkpoint.")
    ] = "zse@champion,zse@challenger",
    workspace: Workspace = WORKSPACE,
    set_: Set = None,
    promote: Annotated[
        bool, typer.Option("--promote", help="Let rules decide about every model but the first, as `zse promote`.")
    ] = False,
    rules: Annotated[str | None, typer.Option("--rules", metavar="FILE", help="With --promote: the rules.")] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, help="How much mAP_all may fall before that is a regression.")
    ] = 0.01,
    allow_prefix: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-prefix",
            metavar="FOLDER_OR_URL",
            help="A dataset.yaml may also name what is below this. Else only what is in its own folder.",
            show_default=False,
        ),
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(
            "--webhook", envvar="ZSE_WEBHOOK", help="POST the summary here. Env: ZSE_WEBHOOK.", show_default=False
        ),
    ] = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="End with 3 for a regression, 4 where something was broken or refused.")
    ] = False,
) -> None:
    """Evaluate models on the data sets that are new or changed, and say what became worse. For a schedule.

    Compares with the last report of the same model and with the first model, measures the drift of the data, and ends
    with a summary. What is known is not done again: give the same command as often as you like, also twice at once.
    Exit code 0 means that all work is done, regression or not.

    Example: `zse reevaluate --catalog s3://bucket/datasets --models zse@champion,zse@challenger --promote`
    """
    from pipelines.judge import reevaluate as job
    from pipelines.judge.notify import notify
    from pipelines.judge.rules import load_rules
    from pipelines.judge.summary import EXIT, markdown

    config = job.how_to_evaluate(set_ or [])
    asked = [name.strip() for name in models.split(",") if name.strip()]
    if not asked:
        raise ZseError(f"--models {models!r} names no model. Give zse@champion, models:/zse/3 or a checkpoint")
    read = load_rules(rules) if promote else None
    summary, folder, new = job.reevaluate(
        catalog, asked, workspace, config, rules=read, tolerance=tolerance, allowed=allow_prefix or ()
    )
    show(markdown(summary))
    if webhook:
        notify(webhook, summary, folder)
    news = "" if new else " (nothing is new)"
    words = ["--catalog", catalog, "--models", models, "--workspace", workspace, *repeated("--set", set_)]
    words += ["--promote"] if promote else []
    words += ["--rules", rules] if rules else []
    words += ["--tolerance", f"{tolerance:g}"]  # not the webhook, which is a secret: ZSE_WEBHOOK
    _last(f"{summary.status}{news}: {folder}/summary.md", command("watch", *words, "--every", "15m"))
    if exit_code and EXIT[summary.status]:
        raise typer.Exit(EXIT[summary.status])


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def watch(
    context: typer.Context,
    every: Annotated[str, typer.Option("--every", help="How often: 90s, 15m, 6h, 1d.")] = "15m",
    times: Annotated[int, typer.Option("--times", min=0, help="End after so many; 0 = never.")] = 0,
) -> None:
    """`zse reevaluate` again and again, each time as a process of its own; all other options are its.

    One that fails is said and tried again the next time. SIGTERM ends the watch after the step that is running was
    told to end too; what it has made is kept.

    Example: `zse watch --every 1h --catalog s3://bucket/datasets --models zse@champion`
    """
    from pipelines.operate.watch import seconds
    from pipelines.operate.watch import watch as keep

    keep(context.args, seconds(every), times)


@app.command()
def report(
    workspace: Workspace = WORKSPACE,
    out: Annotated[str, typer.Option("--out", "-o", help="The page: a file or URL.")] = "report.html",
    setting: Annotated[str | None, typer.Option("--setting", help="Only settings that begin like this.")] = None,
    pictures: Annotated[
        bool, typer.Option(help="With the sheets and explanations of each setting's best model.")
    ] = True,
) -> None:
    """One self-contained HTML page of what MLflow has: who leads in each setting, with intervals, costs, published
    numbers where they may be compared, how it went as data changed, and what it looks like.

    Example: `MLFLOW_TRACKING_URI=http://mlflow:5000 zse report --out s3://bucket/report.html`
    """
    from pipelines.judge.standings import report as write

    _check_output("--out", out)
    write(workspace, out, setting=setting, pictures=pictures)
    following = command("compare", "MODEL", "MODEL", "--metric", "mAP_all", "--workspace", workspace)
    _last(f"{out}   (open it in a browser)", following)


@app.command()
def doctor(
    workspace: Workspace = WORKSPACE,
    experiment: Annotated[
        str | None, typer.Option("--experiment", "-e", help="Also: does this one fit, and can its data be read?")
    ] = None,
    set_: Set = None,
) -> None:
    """Is the cluster fit for a run? Asks MLflow, and every node: versions, clock, GPUs and NCCL, memory, disk, storage.

    Says what to mend, and ends with 1 if a run would fail. It asks the cluster that it runs on: `ray job submit ... --
    zse doctor ...`.

    Example: `zse doctor --workspace s3://bucket/zse --experiment folder+zse_sbir --set dataset.source=s3://bucket/images`
    """
    from pipelines.operate.doctor import examine

    config = _experiment(experiment, set_, workspace) if experiment else None
    found = examine(workspace, config)
    for one in found:
        show(f"{one.state:5s}  {one.what}: {one.text}" + (f"\n       mend: {one.mend}" if one.mend else ""))
    failing = sum(one.state == "fails" for one in found)
    slow = sum(one.state == "slow" for one in found)
    verdict = f"{failing} things to mend" if failing else "ready" + (f", {slow} things make it slow" if slow else "")
    words = ["--experiment", experiment, *repeated("--set", set_)] if experiment else []
    following = ("doctor", *words) if failing else ("run", *(words or ["--experiment", "quickstart"]))
    _last(verdict, command(*following, "--workspace", workspace))
    if failing:
        raise typer.Exit(1)


@app.command()
def status(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A training's name, how it begins, or its folder; none = all.")
    ] = None,
    workspace: Workspace = WORKSPACE,
    as_json: Annotated[bool, typer.Option("--json", help="For machines: one JSON object a training and line.")] = False,
) -> None:
    """How far a training is: stages done, step, last state kept, best check, who is at it, speed and time left.

    Reads the workspace alone: no cluster and no MLflow is asked, and it works from any machine that reaches it.

    Example: `zse status folder+zse_sbir --workspace s3://bucket/zse`
    """
    from pipelines.operate import status as job
    from pipelines.operate import status_lines as shows

    if run is not None:
        place, name = job.find(run, workspace)
        found = job.status(place, name)
        show(job.as_json(found) if as_json else "\n".join(shows.report(found, time.time())))
        _last(f"training {found.stages['train']}", shows.next_command(found, place))
        return
    place = _absolute(workspace)
    trainings, begun = job.statuses(place), job.unfinished(place)
    if as_json:
        for one in trainings:
            show(job.as_json(one))
    else:
        show(shows.table(trainings))
        for one in begun:
            show(f"half done: {one}")
    following = ("status", trainings[-1].name) if trainings else ("run", "--experiment", "NAME")
    _last(f"{len(trainings)} trainings in {place}", command(*following, "--workspace", workspace))


@app.command("import-checkpoint")
def import_checkpoint(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .pth or .safetensors file or URL.")],
    split: Annotated[
        str,
        typer.Option(
            "--split", help="What it was trained on: a built-in split, or JSON with name, citation, seen, unseen."
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="Where the checkpoint goes: a folder or s3://bucket/prefix.")],
) -> None:
    """Weights of the public ZSE-SBIR code, or its backbone alone -> checkpoint, for `evaluate` and `search`.

    Example: `zse import-checkpoint best_checkpoint.pth --split sketchy-25 --out workspace/checkpoints/published`
    """
    from pipelines.datasets.built_in import split_names
    from pipelines.operate.import_checkpoint import import_checkpoint as import_

    _check_output("--out", out, folder=True)
    folder = import_(file, split, out)
    tested = split if split in split_names() else "FILE"  # an experiment's file names the unseen classes alone
    settings = [
        "dataset.source=FOLDER",
        f"dataset.split={tested}",
        "transforms.size=224",
        "transforms.recipe=published",
    ]
    _last(
        folder,
        command("evaluate", "--checkpoint", folder, "-e", "folder+zse_sbir", *repeated("--set", settings)),
        command("search", "--checkpoint", folder, "--sketch", "FILE", "--gallery", "FOLDER"),
    )


@app.command()
def explain(
    sketch: Annotated[str, typer.Option("--sketch", help="A drawing: any picture file or URL.")],
    checkpoint: Annotated[str, typer.Option("--checkpoint", "-c", help="A zse_sbir or crossatnet checkpoint.")],
    photo: Annotated[str | None, typer.Option("--photo", help="Explain the sketch with this photo; or")] = None,
    gallery: Annotated[str | None, typer.Option("--gallery", help="with the best of this folder or URL.")] = None,
    workspace: Workspace = WORKSPACE,
    top: Annotated[int, typer.Option("--top", "-k", min=1, help="How many photos of the gallery.")] = 5,
    mode: Annotated[
        str | None, typer.Option("--mode", help="As of `zse search`. Default: the one that the pictures are about.")
    ] = None,
    patch: Annotated[
        list[str] | None,
        typer.Option("--patch", metavar="row,column", help="A sketch patch to follow, from 0; may be given again."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for explain.html and its PNGs.")] = Path(
        "explained"
    ),
) -> None:
    """Show what the network saw in a sketch and a photo: of zse_sbir which patches correspond, what is attended and a
    synthesis; of crossatnet the photo's own mask and the one that the sketch guides.

    Example: `zse explain --sketch cat.png --photo cat.jpg --mode rn --patch 2,3 --checkpoint workspace/checkpoints/...`
    """
    from pipelines.search.explain import PAGE
    from pipelines.search.explain import explain as draw
    from pipelines.store.storage import join, read_json
    from zse_model.checkpoint import INFO

    _check_output("--out", out, folder=True)
    patches = [_patch(text) for text in patch or []]
    used = _checkpoint(checkpoint, workspace)
    found = draw(sketch, used, workspace, out, photo=photo, gallery=gallery, top=top, mode=mode, patches=patches)
    for i, match in enumerate(found):
        show(f"{i + 1:3d}  {match.score:8.4f}  {printable(match.path)}")
    one = ["--photo", str(photo), "--checkpoint", checkpoint, "--workspace", workspace]
    words = one if photo is not None else [*_searched(str(gallery), checkpoint, workspace), "--top", str(top)]
    words += ["--mode", mode] if mode else []
    if read_json(join(used, INFO))["method"] == "crossatnet":  # it has masks: another sketch, another mask
        following = command("explain", "--sketch", "ANOTHER", *words, "--out", str(out))
    else:
        following = command("explain", "--sketch", sketch, *words, "--patch", "ROW,COLUMN", "--out", str(out))
    _last(f"{out / PAGE}   (open it in a browser)", following)


def _patch(text: str) -> tuple[int, int]:
    row, comma, column = text.partition(",")
    if not (comma and row.strip().isdigit() and column.strip().isdigit()):
        raise ZseError(f"--patch takes row,column, counted from 0 as in --patch 2,3; got {text!r}")
    return int(row), int(column)


@app.command()
def run(
    experiment: Experiment = "quickstart",
    workspace: Workspace = WORKSPACE,
    set_: Set = None,
    report: Report = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check the experiment and estimate bytes and GPU hours; writes nothing.")
    ] = False,
    tflops: Annotated[
        float | None,
        typer.Option("--tflops", help="With --dry-run: matrix rate of one GPU. Else 60 in fp32, 400 in bf16."),
    ] = None,
    utilisation: Annotated[
        float, typer.Option("--utilisation", help="With --dry-run: the share of it that a run reaches, 0..1.")
    ] = 0.35,
) -> None:
    """All stages of an experiment, skipping what is done: ingest, shard, train, embed, evaluate.

    Example: `zse run -e folder+zse_sbir -w s3://bucket/zse --set dataset.source=s3://bucket/pictures`

    `--dry-run` lists the data, resolves the split, builds the networks without memory and says what a run would take.
    """
    _check_output("--report", report)
    config = _experiment(experiment, set_, workspace)
    if dry_run:
        _estimate(config, workspace, tflops, utilisation)
        _last("nothing was written", command("run", *_given(experiment, workspace, set_)))
        return
    from pipelines import run as stages

    _finish_evaluation(config, workspace, stages.run(config, workspace), report)


@app.command()
def quickstart(workspace: Workspace = WORKSPACE, set_: Set = None, report: Report = None) -> None:
    """The whole path on built-in data: `zse run --experiment quickstart`. A few minutes on two cores."""
    run("quickstart", workspace, set_, report)


@app.command()
def experiments() -> None:
    """List the shipped experiments."""
    from pipelines.config.experiment import experiment_names

    for name in experiment_names():
        show(name)


datasets_app = typer.Typer(
    no_args_is_help=True,
    help="The data sets of the field: which there are, what a folder of yours holds, subsets that others can rebuild.",
)
app.add_typer(datasets_app, name="datasets")


@datasets_app.command("list")
def datasets_list() -> None:
    """The data sets that are known, with their published counts and their splits."""
    from pipelines.datasets.published import known_datasets

    for known in known_datasets().values():
        show(f"{known.name:10s} {known.title}")
        for version in known.versions:
            show(f"{'':12s}{version.text()}")
        if known.splits:
            show(f"{'':12s}splits: {', '.join(known.splits)}")
    show_one, look = command("datasets show", "NAME"), command("datasets doctor", "FOLDER")
    _last("docs/datasets.md says how each is laid out", show_one, look)


@datasets_app.command("show")
def datasets_show(name: Annotated[str, typer.Argument(help="As `zse datasets list` names it.")]) -> None:
    """One data set: where it legally comes from, its splits and their citations, its settings and published numbers."""
    from pipelines.datasets.diagnose import describe
    from pipelines.datasets.published import known_dataset

    known = known_dataset(name)
    show("\n".join(describe(known)))
    _last("docs/datasets.md says how it is laid out", command("datasets doctor", "FOLDER"))


@datasets_app.command("doctor")
def datasets_doctor(
    source: Annotated[
        list[str], typer.Argument(help="A folder, URL or archive; several where the data lies in several.")
    ],
    read: Annotated[int, typer.Option("--read", min=0, help="How many pictures to read, evenly over all.")] = 50,
) -> None:
    """What a source holds: its layout, its counts beside the published ones, what is missing, the possible splits.

    Example: `zse datasets doctor s3://bucket/Sketchy`
    """
    from pipelines.datasets.diagnose import diagnose, next_command
    from pipelines.datasets.diagnose import report as lines

    found = diagnose([_absolute(s) for s in source], read)
    show("\n".join(lines(found)))
    unfit = "cannot be used with these class names" if found.unfit else "can be used"
    usable = f"lacks {found.lacking} pictures" if found.lacking else unfit
    _last(f"{', '.join(source)} {usable}", next_command(found))


@datasets_app.command("subset")
def datasets_subset(
    members: Annotated[str, typer.Argument(help="A shipped list (sketchy125_128), or a TSV file or URL of members.")],
    source: Annotated[list[str], typer.Option("--source", help="Your copy of the data set; may be given again.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Where the subset goes: a folder or s3://bucket/prefix.")],
    size: Annotated[
        int | None, typer.Option("--size", min=16, max=1024, help="Side in px; none = as they are.")
    ] = None,
) -> None:
    """A listed part of a data set, from your own copy, as `sketch/<class>/*`, `photo/<class>/*` and pairs.tsv.

    Example: `zse datasets subset sketchy125_128 --source /data/Sketchy --size 128 --out /data/sketchy125_128`
    """
    from pipelines.datasets.subset import write_subset

    _check_output("--out", out, folder=True)
    written = write_subset(members, [_absolute(s) for s in source], out, size)
    _last(f"{written:,} pictures in {out}", command("datasets doctor", out))


def _check_output(option: str, path: str | Path | None, *, folder: bool = False) -> None:
    from pipelines.cli.outputs import check_output

    if path is not None:
        check_output(option, path, folder=folder)


def _absolute(url: str) -> str:
    from pipelines.store import storage

    return storage.absolute(url)


def _stage(name: str, experiment: str, workspace: str, set_: list[str] | None) -> None:
    from pipelines import run as stages

    out = stages.run(_experiment(experiment, set_, workspace), workspace, until=name)
    made = {"ingest": [out.images], "shard": [out.pairs]}.get(name)
    made = made or list((out.encodings or out.checkpoints).values())
    after = stages.STAGES[stages.STAGES.index(name) + 1]
    _last("\n".join(made), command(after, *_given(experiment, workspace, set_)))


def _given(experiment: str, workspace: str, set_: list[str] | None) -> list[str]:
    """The options that name an experiment, as they were given."""
    return ["--experiment", experiment, "--workspace", workspace, *repeated("--set", set_)]


def _estimate(config: ExperimentConfig, workspace: str, tflops: float | None, utilisation: float) -> None:
    """The table of what a run would take, as far as it can be counted; then everything that would end the run."""
    from pipelines.datasets.registry import create_dataset
    from pipelines.operate import estimate, preflight

    rates, records = estimate.Rates(tflops, utilisation), create_dataset(config.dataset).records()
    problem: ZseError | None = None
    try:
        preflight.check(config, _absolute(workspace), records, fresh=True)
    except ZseError as error:
        problem = error
    with suppress(ZseError) if problem else nullcontext():
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
    _last(
        f"{done} of {len(results)} settings evaluated, in {workspace}/reports" + (f"; {report}" if report else ""),
        command("search", "--sketch", "FILE", *_searched("FOLDER", checkpoint, workspace)),
    )
    if any(r.broken for r in results):
        raise typer.Exit(1)


def _finish_evaluation(config: ExperimentConfig, workspace: str, out: Outputs, report: Path | None) -> None:
    from pipelines.run import result_tables
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
            say(f"{name}: checkpoint {out.checkpoints[name]}, report {folder}")
    result = str(report) if report else "\n".join(out.reports.values())
    following = [
        command("search", "--sketch", "FILE", *_searched("FOLDER", next(iter(out.checkpoints.values())), workspace))
    ]
    if config.tracking.enabled:
        pages = ui_command(tracking_uri(storage.absolute(workspace), config.tracking.uri))
        if pages.startswith("mlflow "):
            following.insert(0, pages)
        else:
            result += f"\n{pages}: runs, curves, pictures"
    _last(result, *following)


def _experiment(name: str, overrides: list[str] | None, workspace: str) -> ExperimentConfig:
    from pipelines.config.experiment import load_experiment

    config = load_experiment(name, overrides or [])
    return replace(config, start=config.start and _checkpoint(config.start, workspace, config.tracking.uri))


def _checkpoint(name: str, workspace: str, tracking: str | None = None) -> str:
    """The folder of a checkpoint that may be named as the registry does."""
    if not name.startswith("models:/"):
        return name
    from pipelines.tracking import checkpoint_of

    return checkpoint_of(name, workspace, tracking)


def _last(result: str, *following: str) -> None:
    """The last lines of every verb: where the result is, and which commands may follow, to be pasted."""
    say(f"Result: {result}\nNext: {f'{chr(10)}      '.join(following)}")


def main() -> None:
    """The `zse` command. What a user can mend ends with one clear line, everything else with a traceback, and neither
    shows a secret. Ends with 1 for an error, 2 for a wrong use of the command line, 130 where it was interrupted."""
    warnings.filterwarnings("ignore", module=r"(ray|mlflow|timm|torch)\b.*")
    logging.getLogger("timm").setLevel(logging.ERROR)
    for stream in (sys.stdout, sys.stderr):  # a terminal may lack letters that names have
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        logs.capture()
        app()
    except KeyboardInterrupt:
        _interrupted()
        sys.exit(130)
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt) or end.code == 130:  # typer makes that of Ctrl-C
            _interrupted()
        raise
    except Exception as error:
        meant = to_mend(error)
        if os.environ.get("ZSE_DEBUG") or meant is None:
            say(traceback.format_exc(), logging.ERROR)
        if meant is not None:
            say(f"zse: {meant}\n(ZSE_DEBUG=1 shows where)", logging.ERROR)
        sys.exit(1)


def _interrupted() -> None:
    say("zse: interrupted. Finished work is kept: the same command goes on from there", logging.ERROR)

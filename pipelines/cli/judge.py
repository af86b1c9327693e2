"""The verbs that compare, promote, re-evaluate and report models."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.cli.options import WORKSPACE, Workspace, check_output, last
from pipelines.runtime.commands import command, repeated
from pipelines.runtime.progress import show
from zse_model.errors import ZseError


def compare(
    first: Annotated[
        str, typer.Argument(help="A report, a checkpoint, models:/NAME@ALIAS, or the id of an MLflow run.")
    ],
    others: Annotated[list[str], typer.Argument(help="The models to compare with it; one or more, in the same forms.")],
    workspace: Workspace = WORKSPACE,
    metric: Annotated[
        str | None, typer.Option("--metric", help="Only this metric, such as mAP_all. Default: all.")
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option("--mode", help="Only this retrieval mode. ret,fused: ret of the first, fused of the others."),
    ] = None,
    setting: Annotated[str | None, typer.Option("--setting", help="Only settings whose name begins with this.")] = None,
    out: Annotated[
        str, typer.Option("--out", "-o", help="The output folder or URL for compare.json and pictures.")
    ] = "compared",
) -> None:
    """Compare models on the same queries: paired difference, interval, p, and classes better and worse.

    Reads reports of `zse evaluate`; for a checkpoint, its reports in MLflow. Draws the queries that differ most.

    Example: `zse compare models:/zse@champion models:/zse@challenger --metric mAP_all`
    """
    from pipelines.judge.compare import compare_all

    check_output("--out", out, folder=True)
    found = compare_all(first, others, workspace, out, metric=metric, mode=mode, setting=setting)
    for one in found:
        show(one)
    last(f"{out}/compare.json, and pictures beside it", _following(others[0], workspace))


def _following(name: str, workspace: str) -> str:
    """`zse explain` for the model; for a report or an MLflow run the user fills in the checkpoint.

    `zse search` for a checkpoint of a method that declares no explanation.
    """
    from pipelines.cli.options import searched
    from pipelines.store.storage import exists, join, read_json
    from zse_model.checkpoint import INFO
    from zse_model.methods import METHODS

    checkpoint = "CHECKPOINT"
    if name.startswith("models:/"):
        checkpoint = name
    elif exists(join(name, INFO)):
        checkpoint = name
        method = METHODS.get(read_json(join(name, INFO))["method"])
        if method and not method.EXPLAINERS:
            return command("search", "--sketch", "FILE", *searched("FOLDER", name, workspace))
    inputs = ["--sketch", "FILE", "--photo", "FILE", "--checkpoint", checkpoint, "--workspace", workspace]
    return command("explain", *inputs)


def promote(
    candidate: Annotated[
        str,
        typer.Argument(help="models:/NAME@challenger, models:/NAME/VERSION, or a tracked checkpoint (with --name)."),
    ],
    name: Annotated[str | None, typer.Option("--name", help="The registered model of the checkpoint.")] = None,
    rules: Annotated[
        str | None,
        typer.Option("--rules", metavar="FILE", help="YAML with better, no_worse, faster. Default: the shipped rules."),
    ] = None,
    workspace: Workspace = WORKSPACE,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the decision and its reasons; change nothing.")
    ] = False,
    few_classes: Annotated[
        bool,
        typer.Option(
            "--few-classes",
            help="Decide on fewer than 10 classes by the difference without its interval; tag the version.",
        ),
    ] = False,
) -> None:
    """Promote a model if rules find it significantly better on selection data and no worse anywhere else.

    If a rule fails, the candidate becomes the challenger. The rules read the evaluations of both models: the shipped
    rules choose by pseudo-unseen classes, which `zse run` evaluates. If an evaluation is missing, the reason has the
    command that makes it. Without a champion the candidate must beat the reference rows, or chance.

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
    last(f"{candidate} {said}", following)


def reevaluate(
    catalog: Annotated[
        str,
        typer.Option("--catalog", help="A folder or URL of data sets: one folder each, with an optional dataset.yaml."),
    ],
    models: Annotated[
        str, typer.Option("--models", help="Comma-separated: zse@champion, models:/zse/3, or a checkpoint.")
    ] = "zse@champion,zse@challenger",
    workspace: Workspace = WORKSPACE,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            "-s",
            metavar="a.b=c",
            help="Override a field of evaluation, ingest, cluster or tracking. Repeatable.",
            show_default=False,
        ),
    ] = None,
    promote: Annotated[
        bool, typer.Option("--promote", help="Apply the rules of `zse promote` to every model but the first.")
    ] = False,
    rules: Annotated[
        str | None,
        typer.Option("--rules", metavar="FILE", help="With --promote: YAML with rules. Default: the shipped rules."),
    ] = None,
    index: Annotated[
        list[str] | None,
        typer.Option(
            "--index",
            metavar="URL",
            help="With --promote: encode the photos of this index by a new champion. Repeatable.",
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[
        float, typer.Option("--tolerance", min=0, help="Largest fall of mAP_all that is not a regression.")
    ] = 0.01,
    allow_prefix: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-prefix",
            metavar="FOLDER_OR_URL",
            help="A dataset.yaml may also name files below this prefix. Default: only its own folder. Repeatable.",
            show_default=False,
        ),
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(
            "--webhook", envvar="ZSE_WEBHOOK", help="POST the summary as JSON to this URL.", show_default=False
        ),
    ] = None,
    exit_code: Annotated[
        bool,
        typer.Option("--exit-code", help="Exit with 3 for a regression, 4 if a data set is broken or a model refused."),
    ] = False,
) -> None:
    """Evaluate models on new and changed data sets, and report regressions and drift. Made for a schedule.

    Compares each model with its last report and with the first model, measures the drift of the data, and writes a
    summary. Existing reports are not made again. Two runs at once are safe. Exit code 0: all work is done, with or
    without a regression.

    Example: `zse reevaluate --catalog s3://bucket/datasets --models zse@champion,zse@challenger --promote`
    """
    from pipelines.judge import reevaluate as job
    from pipelines.judge.indexes import index_by_champion
    from pipelines.judge.notify import notify
    from pipelines.judge.rules import load_rules
    from pipelines.judge.summary import EXIT, markdown

    config = job.how_to_evaluate(set_ or [])
    asked = [name.strip() for name in models.split(",") if name.strip()]
    if not asked:
        raise ZseError(f"--models {models!r} names no model. Give zse@champion, models:/zse/3 or a checkpoint")
    if index and not promote:
        raise ZseError("--index goes with --promote: a new champion encodes the photos of the index")
    read = load_rules(rules) if promote else None
    summary, folder, new = job.reevaluate(
        catalog, asked, workspace, config, rules=read, tolerance=tolerance, allowed=allow_prefix or ()
    )
    show(markdown(summary))
    if webhook:
        notify(webhook, summary, folder)
    if index:
        index_by_champion(asked[0], index, workspace, config.tracking.uri)
    news = "" if new else " (nothing is new)"
    words = ["--catalog", catalog, "--models", models, "--workspace", workspace, *repeated("--set", set_)]
    words += ["--promote"] if promote else []
    words += ["--rules", rules] if rules else []
    words += repeated("--index", index)
    words += ["--tolerance", f"{tolerance:g}"]  # not the webhook, which is a secret: ZSE_WEBHOOK
    last(f"{summary.status}{news}: {folder}/summary.md", command("watch", *words, "--every", "15m"))
    if exit_code and EXIT[summary.status]:
        raise typer.Exit(EXIT[summary.status])


def watch(
    context: typer.Context,
    every: Annotated[str, typer.Option("--every", help="Time between two starts: 90s, 15m, 6h, 1d.")] = "15m",
    times: Annotated[int, typer.Option("--times", min=0, help="Stop after this many runs; 0 = never.")] = 0,
) -> None:
    """Run `zse reevaluate` on a schedule, each time in a fresh process. Other options are passed to it.

    A failed run is logged, and the next one starts as planned. SIGTERM ends the watch and the current run; finished
    work is kept.

    Example: `zse watch --every 1h --catalog s3://bucket/datasets --models zse@champion`
    """
    from pipelines.operate.watch import seconds
    from pipelines.operate.watch import watch as keep

    keep(context.args, seconds(every), times)


def report(
    workspace: Workspace = WORKSPACE,
    out: Annotated[str, typer.Option("--out", "-o", help="The page to write: a file or URL.")] = "report.html",
    setting: Annotated[str | None, typer.Option("--setting", help="Only settings whose name begins with this.")] = None,
    pictures: Annotated[
        bool, typer.Option(help="Show retrieval sheets and explanations of each setting's best model.")
    ] = True,
) -> None:
    """Write one self-contained HTML page from MLflow: for each setting the models, best first.

    Shows intervals, costs, published numbers if they are comparable, the history over versions of the data, and
    pictures.

    Example: `MLFLOW_TRACKING_URI=http://mlflow:5000 zse report --out s3://bucket/report.html`
    """
    from pipelines.judge.standings import report as write

    check_output("--out", out)
    write(workspace, out, setting=setting, pictures=pictures)
    following = command("compare", "MODEL", "MODEL", "--metric", "mAP_all", "--workspace", workspace)
    last(f"{out}   (open it in a browser)", following)

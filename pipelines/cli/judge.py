"""The verbs that say which model is better, and whether it is still good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.cli.options import WORKSPACE, Set, Workspace, check_output, last
from pipelines.runtime.commands import command, repeated
from pipelines.runtime.progress import show
from zse_model.errors import ZseError

if TYPE_CHECKING:
    pass


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

    check_output("--out", out, folder=True)
    found = compare_all(first, others, workspace, out, metric=metric, mode=mode, setting=setting)
    for one in found:
        show(one)
    inputs = ["--sketch", "FILE", "--photo", "FILE", "--checkpoint", _explained(others[0]), "--workspace", workspace]
    last(f"{out}/compare.json, and pictures beside it", command("explain", *inputs))


def _explained(name: str) -> str:
    """What was compared, as `zse explain` takes it: of a report or a run of MLflow the user knows the checkpoint."""
    from pipelines.store.storage import exists, join
    from zse_model.checkpoint import INFO

    return name if name.startswith("models:/") or exists(join(name, INFO)) else "CHECKPOINT"


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
    last(f"{candidate} {said}", following)


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
    last(f"{summary.status}{news}: {folder}/summary.md", command("watch", *words, "--every", "15m"))
    if exit_code and EXIT[summary.status]:
        raise typer.Exit(EXIT[summary.status])


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

    check_output("--out", out)
    write(workspace, out, setting=setting, pictures=pictures)
    following = command("compare", "MODEL", "MODEL", "--metric", "mAP_all", "--workspace", workspace)
    last(f"{out}   (open it in a browser)", following)

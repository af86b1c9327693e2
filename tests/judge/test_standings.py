"""The page says who leads, whether that is significant, and shows metrics that suit the gallery."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.datasets.published import Setting
from pipelines.judge import leading, standings
from pipelines.judge.compare import Side
from pipelines.runtime.errors import StorageError
from pipelines.tracking.history import Standing
from tests.helpers.reports import TEST, measured


def standing(side: Side, value: float, **about: object) -> Standing:
    """What MLflow has of the second report of `measured`, with a value of mAP_all."""
    metrics = {"plain/ret/mAP_all": value, "plain/ret/mAP_all.ci_low": value - 0.03}
    metrics |= {"plain/ret/mAP_all.ci_high": value + 0.03, "cost/ret/gflop_pair": 0.002}
    metrics |= {f"plain/ret/{name}": value for name in ("mAP_200", "P_1", "P_25", "P_100")}
    one = Standing(TEST, "report", "global", side.name, "shop", side.name, 80, 300, 0, "", "an abacus", metrics, "r")
    return replace(one, report=side.report.url, **about)  # type: ignore[arg-type]


def read(*evaluations: Standing) -> str:
    """The text of the page."""
    page = standings.page([standings.Section("shop", list(evaluations), list(evaluations))], "here")
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL).split())


def test_a_lead_is_significant_or_not(tmp_path: Path) -> None:
    sides = [measured(tmp_path, name, 0.5, mean)[1] for name, mean in (("a", 0.5), ("bb", 0.6), ("ccc", 0.5))]
    a, b, c = (standing(side, value) for side, value in zip(sides, (0.5, 0.6, 0.5001), strict=True))
    text = read(a, b)
    assert "global (bb) leads: by ret its mAP_all is 0.600. The difference to the next model, global (a) by ret" in text
    assert re.search(r"is \+0\.\d+ \(\+0\.\d+ to \+0\.\d+ for other classes like these\): a significant lead\.", text)
    near = read(replace(a, metrics={**a.metrics, "plain/ret/mAP_all": 0.5}), c)
    assert "no significant lead." in near and "a significant lead" not in near


def test_a_lead_that_cannot_be_tested_says_why(tmp_path: Path) -> None:
    (_, one), (_, other) = measured(tmp_path, "a", 0.5, 0.5), measured(tmp_path, "bb", 0.5, 0.6)
    a, b = standing(one, 0.5), standing(other, 0.6)
    assert "their reports cannot be compared here" in read(replace(a, report=str(tmp_path / "gone")), b)
    assert "their reports cannot be compared here" in read(replace(a, checkpoint_hash="another"), b)
    assert "global (bb) is the only model here: by ret its mAP_all is 0.600." in read(b)
    (Path(other.report.url) / "report.json").unlink()
    assert "their reports cannot be compared here" in read(a, b)
    few = [measured(tmp_path / "few", name, mean, mean, classes=3)[0] for name, mean in (("a", 0.5), ("bb", 0.6))]
    lines = [(standing(side, 0.5, setting=side.report.settings[0]), "ret") for side in few[::-1]]
    assert leading.sentence(lines, "mAP_all", leading.Reports()).endswith("with 3 classes there is no test of that.")


def test_chance_and_metrics_are_those_of_the_gallery(tmp_path: Path) -> None:
    (_, side) = measured(tmp_path, "a", 0.5, 0.5, chance={TEST: 0.0375})
    one = standing(side, 0.5)  # 300 photos of 10 classes
    text = read(one)
    assert "A random order has 0.037, the dotted line." in text or "A random order has 0.038, the dotted line." in text
    heads = text[text.index("model and mode") :]
    assert heads.startswith("model and mode mAP_all mAP_200 P_1 P_25 MFLOP a pair global ret")
    small = read(replace(one, gallery=150))  # 15 relevant photos: P_25 cannot reach 1, and mAP_200 is mAP_all
    assert "model and mode mAP_all P_1 MFLOP a pair" in small
    assert re.search(r"0\.500 2\b", heads), "0.002 GFLOP are 2 MFLOP"
    section = standings.Section("shop", [standing(side, 0.02)], [])
    assert section.evidence and section.evidence.relevant == 30 and section.top == 0.1
    other = standing(side, 0.5, setting="shop-generalised.01234567")  # 300 photos, most of them of other classes
    assert leading.evidence([(other, "ret")], "mAP_all", leading.Reports()).relevant is None


def test_a_store_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def away(url: str) -> None:
        asked.append(url)
        raise StorageError(f"{url} does not answer")

    monkeypatch.setattr(leading.Report, "find", away)
    one = Standing(TEST, "report", "m", "m", "", "c", 1, 1, 0, "", "", {"plain/ret/mAP_all": 0.5}, "r")
    each = [replace(one, checkpoint_hash=str(i), report=f"s3://bucket/reports/{i}") for i in range(5)]
    assert "cannot be compared here" in read(*each)
    assert asked == ["s3://bucket/reports/0"]


@pytest.mark.parametrize("drift", ["", "sketches with +2.0 standard deviations of ink"])
def test_drift_is_said_once(tmp_path: Path, drift: str) -> None:
    (_, side) = measured(tmp_path, "a", 0.5, 0.5)
    one = standing(side, 0.5, drift=drift)
    metrics = {**one.metrics, "plain/fused/mAP_all": 0.4}
    text = read(replace(one, metrics=metrics))
    assert text.count("standard deviations of ink") == text.count("The data have drifted for global (a)") == bool(drift)


def test_pictures_are_open_with_the_best_answers_first(tmp_path: Path) -> None:
    (_, side) = measured(tmp_path, "a", 0.5, 0.5)
    one = standing(side, 0.5)
    section = standings.Section("shop-fg", [one], [one], None, {"bad.png": b"1", "other.png": b"2", "good.png": b"3"})
    assert [data for _, data in section.shown_pictures()] == [b"3", b"1", b"2"]
    assert section.about.endswith("own photo among their drawn photos")


def test_a_row_by_diffusion_does_not_compare_with_published_ones(tmp_path: Path) -> None:
    (_, side) = measured(tmp_path, "a", 0.5, 0.5)
    one = standing(side, 0.5, trained_on="sketchy-25")
    line = {"method": "CVH", "mode": "ret", "source": "paper", "mAP_all": 0.2}
    known = Setting(name="shop", data="shop", split="sketchy-25", metrics=("mAP_all",), published=(line,))
    known = replace(known, queries=one.queries, gallery=one.gallery)
    again = {key.replace("/ret/", "/ret-diffused-500/"): value for key, value in one.metrics.items()}
    both = standings.Section("shop", [replace(one, metrics={**one.metrics, **again})], [], known)
    assert (both.difference(one, "ret"), len(both.rows())) == ("", 3)
    assert both.incomparable() == ["ret-diffused-500: diffusion ranks photos by each other"]
    alone = standings.Section("shop", [replace(one, metrics=again)], [], known)
    assert len(alone.rows()) == 1, "no published row stands beside it"


def test_published_values_stand_beside_those_of_their_protocol(tmp_path: Path) -> None:
    (_, side) = measured(tmp_path, "a", 0.5, 0.5)
    plain = standing(side, 0.5, trained_on="sketchy-25")
    line = {"method": "CVH", "mode": "rn", "source": "paper", "mAP_all": 0.6}
    known = Setting(name="shop", data="shop", split="sketchy-25", metrics=("mAP_all",), published=(line,))
    known = replace(known, protocol="zse_paper", queries=plain.queries, gallery=plain.gallery)
    paper = {f"zse_paper/ret/mAP_all{end}": value for end, value in (("", 0.55), (".ci_low", 0.5), (".ci_high", 0.6))}
    both = replace(plain, metrics={**plain.metrics, **paper, "zse_paper/ret/P_1": 0.7})
    section = standings.Section("shop", [both], [both], known)
    rows = [("global", "ret", 0.5), ("global", "ret, zse_paper", 0.55), ("CVH", "rn, zse_paper", 0.6)]
    assert [(row.method, row.mode, row.value) for row in section.rows()] == rows
    ours = section.rows()[1]
    assert ours.interval == (0.5, 0.6) and "0.700" in ours.cells and not section.incomparable()
    page = standings.page([section], "here")
    assert "global <b>ret, zse_paper</b>" in page and "CVH <b>rn, zse_paper</b>, published: paper" in page
    alone = standings.Section("shop", [plain], [plain], known)
    assert [row.mode for row in alone.rows()] == ["ret"], "no published row stands beside another protocol"
    assert alone.incomparable() == ["not evaluated by the published protocol, zse_paper"]
    assert [row.mode for row in replace(section, published=replace(known, protocol="plain")).rows()] == ["ret", "rn"]


def test_the_splits_of_a_setting_are_sections(tmp_path: Path) -> None:
    sides = [measured(tmp_path, name, 0.5, 0.5)[1] for name in ("a", "bb", "ccc")]
    a, b, old = (
        standing(side, 0.5, split_hash=hash) for side, hash in zip(sides, ("1" * 64, "2" * 64, ""), strict=True)
    )
    before = replace(a, setting="shop.76543210", started=-1)
    gone = replace(before, split_hash="3" * 64)

    def found(
        *evaluations: Standing, known: tuple[Setting, ...] = ()
    ) -> dict[str, tuple[list[Standing], list[Standing]]]:
        return {section.name: (section.now, section.history) for section in standings.sections(evaluations, known)}

    assert found(a) == {"shop": ([a], [a])}
    assert found(b, a, old) == {
        "shop (split unknown)": ([old], [old]),
        "shop (split 11111111)": ([a], [a]),
        "shop (split 22222222)": ([b], [b]),
    }
    # A split that only older data have is history: the data may have got classes since.
    assert found(before, gone, a) == {"shop": ([a], [before, gone, a])}
    assert found(before, gone, a, b) == {
        "shop (split 11111111)": ([a], [before, gone, a]),
        "shop (split 22222222)": ([b], [gone, b]),
    }
    page = standings.page(standings.sections([a, b], []), "here")
    assert page.count("is the only model here") == 2 and "leads" not in page
    anchors = re.findall(r'<section id="(.*?)">', page)
    assert len(set(anchors)) == 2 and all(f'<a href="#{anchor}">shop (split ' in page for anchor in anchors)
    assert {section.about for section in standings.sections([a, b], [])} == {standings.UNSEEN}
    # The name of a published setting fixes its classes, but not its held-back photos.
    known = Setting(name="shop", data="shop", split="shop", metrics=("mAP_all",))
    assert len(found(a, b, known=(known,))["shop"][0]) == 2
    apart = [replace(one, setting="shop-generalised.01234567") for one in (a, b)]
    assert len(found(*apart, known=(replace(known, form="-generalised"),))) == 2

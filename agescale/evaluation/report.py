"""The judgement as files: one self-contained ``report.html``, ``metrics.json``, and each table as CSV.

In: a ``Judgement``: what was run on what, the model's card, a ``SplitResult`` for each judged split (the first is what
the page is about), the faces to show. Out: the files in a folder or bucket, ``metrics.json`` first. Computes no metric
and reads no tables. The page refers to nothing outside itself, and every text that comes from data is escaped.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
from markupsafe import Markup

from agescale.ages.few import ENOUGH_FACES, ENOUGH_TO_LEARN
from agescale.evaluation import doubt, model_card, plots
from agescale.evaluation.age_gate import GATE_AGE
from agescale.evaluation.fairness import said
from agescale.evaluation.gallery import Gallery, ShownFace
from agescale.evaluation.intervals import LEAST
from agescale.evaluation.records import Comparison, GroupScores, HandedOver, PartScores, Summary, WorstPart
from agescale.evaluation.split_result import CROSSED, SplitResult
from agescale.reports import formats
from agescale.reports.page import UNKNOWN, inline, interval, is_about, number, percent, template, text
from agescale.store import objects, outputs, paths
from agescale.store.outputs import Output

PAGE_NAME, METRICS_NAME, ERRORS_NAME = "report.html", "metrics.json", "errors.csv"
MARKS = ("catalog", "predictions", "report_split")
"""What ``metrics.json`` says under "about", by which a report's folder is known."""
TABLES = (
    "by_group", "by_decade", "by_gender", "by_ethnicity", "by_gender_ethnicity", "gaps", "age_gate", "intervals",
    "reliability", "handed_over", "leaks", "missed", "confusion", "left_out", "against", "errors",
)  # fmt: skip

NUM_GAPS = 12
"""Of each limit, and of no limit, that the page tells of; gaps.csv has all."""
BREAKDOWNS = {
    "decade": "decade of age", "predicted decade": "decade of predicted age", "gender": "gender",
    "ethnicity": "ethnicity", "gender+ethnicity": "gender and ethnicity",
}  # fmt: skip
LOOK = "Often the label is at fault: look before you blame the model."
GALLERIES = {
    "worst": ("The worst of", f"Largest errors of the age. {LOOK}"),
    "wrong": ("The worst of", f"In the wrong group, and the surest of it. {LOOK}"),
    "confident": ("Most confidently wrong in", "In the wrong group, and the surest of it."),
    "sample": ("A sample of", "Drawn at random from the judged faces."),
}
"""Title, which a split completes, and note of each kind of gallery."""


@dataclass(frozen=True)
class About:
    """What was run on what, as ``metrics.json`` says it."""

    catalog: str
    source: str | None
    layout: str | None
    predictions: str
    against: str | None
    checkpoint: str | None
    model: str  # digest
    age_groups: str | None
    model_age_groups: str | None
    gender_from: str | None
    include_findings: bool
    asked_splits: tuple[str, ...]
    report_split: str
    judged_on: str
    unscored_splits: list[str]
    run: Mapping[str, Any] = field(default_factory=dict)  # what the predictions say of themselves
    has_pictures: bool = True  # and names of files; else neither


@dataclass(frozen=True)
class Judgement:
    """All that a report tells: what was run on what, the model's card, and what was found out, by split."""

    about: About
    card: Mapping[str, Any]
    group_names: Sequence[str]
    results: Sequence[SplitResult]  # the first is what the page is about
    galleries: Sequence[Gallery] = ()
    group_counts: Mapping[str, Sequence[int]] = field(
        default_factory=dict
    )  # of the labels, by split, in all the catalog
    learned_minors: tuple[int, int] | None = None  # of its training faces with an exact age, and all of these
    errors: pa.Table | None = None  # a row for each face that is not judged quite right, the worst first, if not of
    num_errors: int = 0  # all of them


def claim(out: str, others: Mapping[str, str]) -> None:
    """Raises ValueError, before anything is written, where ``out`` is no place for a report: one of the ``others``
    (URIs by what stands there), a folder in or around one of them, or a folder with files that are no report's."""
    Output(out, "a report", lambda name: None if _is_report(out) else name).check(others, "the report")


def _is_report(out: str) -> bool:
    """Whether a report stands in ``out``, or the beginning of one: ``metrics.json`` is written first."""
    return is_about(paths.join(out, METRICS_NAME), MARKS)


def write_report(out: str, judged: Judgement) -> str:
    """Writes all files into the folder ``out`` (a path or ``s3://``), ``metrics.json`` first and the page last, and
    returns the page's URI. Tables of an earlier report that this one has not are deleted."""
    page = render(judged).encode()
    numbers = {"about": asdict(judged.about)} | {result.name: result.numbers() for result in judged.results}
    numbers = _rounded(numbers)
    files = {METRICS_NAME: json.dumps(numbers, indent=2, ensure_ascii=False, allow_nan=False).encode()}
    files |= {name: text.encode() for name, text in _tables(judged.results, judged.group_names).items()}
    if judged.errors is not None and len(judged.errors):
        files[ERRORS_NAME] = formats.to_bytes(judged.errors, "csv")
    card = model_card.write(numbers, files | {PAGE_NAME: page}, facts_of(judged)).encode()
    known = {f"{name}.csv" for name in TABLES}
    stale = known.intersection(objects.list_names(out, suffix=".csv")) - files.keys()
    outputs.tell_held(out)
    for name, data in (files | {model_card.CARD_NAME: card, PAGE_NAME: page}).items():
        objects.write_bytes(paths.join(out, name), data)
    for name in stale:
        objects.delete(paths.join(out, name))
    return paths.join(out, PAGE_NAME)


def facts_of(judged: Judgement) -> dict[str, Any]:
    """What the model card tells of."""
    about, card, central = judged.about, judged.card, judged.results[0]
    told = ("architecture", "task", "image_size", "num_parameters", "num_images", "data", "data_license", "best_epoch",
            "initial_weights", "calibration", "metric")  # fmt: skip
    named = {key: card.get(key) for key in told}
    return {
        "about": about,
        "card": named,
        "initial": {key: (named["initial_weights"] or {}).get(key) for key in ("source", "license", "sha256")},
        "settings": _rows_of_card({key: value for key, value in card.items() if key not in told}),
        "run": [
            (key, text(value)) for key, value in about.run.items() if key not in ("model", "catalog", "age_groups")
        ],
        "calibration": named["calibration"],
        "results": judged.results,
        "central": central,
        "has_ages": central.summary.mae is not None,
        "has_groups": central.summary.accuracy is not None,
        "verdicts": verdicts(central),
        "headlines": _tiles(central.summary),
        "breakdowns": [(BREAKDOWNS[key], key, rows) for key, rows in central.breakdowns.items() if rows],
        "covered": central.covered.get("all", []),
        "gate": central.gate,
        "gate_age": GATE_AGE,
        "few": ENOUGH_FACES,
        "interval": interval,
    }


def render(judged: Judgement) -> str:
    """The page as text."""
    about, card, group_names, results = judged.about, judged.card, judged.group_names, judged.results
    central = results[0]
    none = [0] * len(group_names)
    learned, validated = (judged.group_counts.get(split, none) for split in ("train", "val"))
    return template("report.html.j2").render(
        about=about,
        card=_rows_of_card(card),
        blocks=[(name, text(shape, "×").replace("x", "×"), count) for name, shape, count in card.get("blocks") or []],
        num_parameters=card.get("num_parameters"),
        central=central,
        results=results,
        has_ages=central.summary.mae is not None,
        has_groups=central.summary.accuracy is not None,
        headlines=_tiles(central.summary),
        verdicts=verdicts(central),
        comparisons=[(BREAKDOWNS.get(key, ""), rows) for key, rows in central.comparisons.items()],
        breakdowns=[(BREAKDOWNS[key], key, rows) for key, rows in central.breakdowns.items() if rows],
        galleries=[_gallery(gallery) for gallery in judged.galleries if gallery.faces],
        num_errors=judged.num_errors,
        num_listed=len(judged.errors) if judged.errors is not None else 0,
        errors_name=ERRORS_NAME,
        group_counts=list(judged.group_counts),
        rows_of_groups=list(zip(group_names, zip(*judged.group_counts.values(), strict=True), strict=True))
        if judged.group_counts
        else [],
        few_validated=[
            f"{name} {count:,}"
            for name, num_learned, count in zip(group_names, learned, validated, strict=True)
            if num_learned and count < ENOUGH_FACES
        ],
        few_learned=[
            f"{name} {count:,}"
            for name, count in zip(group_names, learned, strict=True)
            if any(learned) and count < ENOUGH_TO_LEARN
        ],
        learned_minors=judged.learned_minors,
        few_to_learn=ENOUGH_TO_LEARN,
        figures=_figures(central, card, group_names),
        few=ENOUGH_FACES,
        gate_age=GATE_AGE,
        covered=[(BREAKDOWNS.get(key, ""), rows) for key, rows in central.covered.items()],
        mean_gaps={what: doubt.mean_gap(rows) for what, rows in central.reliability.items()},
        gaps=_gaps(central),
        missed=[(BREAKDOWNS.get(key, ""), rows) for key, rows in central.missed.items()],
        interval=interval,
    )


@dataclass(frozen=True)
class _GapRow:
    """A gap as the page has it."""

    metric: str
    who: str
    value: str
    other: str
    other_value: str
    gap: str
    interval: str
    p_value: str
    limit: str
    is_clear: bool


def _gaps(result: SplitResult) -> list[_GapRow]:
    """The largest gaps of those asked for, then those of the parts at large."""
    verdicts = [*result.limits, result.differences] if result.differences else result.limits
    return [
        _GapRow(
            metric=gap.metric,
            who=f"{gap.name} ({gap.num_rows:,})",
            value=said(gap.metric, gap.value),
            other=f"{gap.other} ({gap.num_other_rows:,})",
            other_value=said(gap.metric, gap.other_value),
            gap=said(gap.metric, gap.gap),
            interval=f"{said(gap.metric, gap.gap_low)} to {said(gap.metric, gap.gap_high)}".replace("-", "−"),
            p_value="< 0.001" if gap.p_value < 0.001 else f"{gap.p_value:.3f}",
            limit=said(gap.metric, verdict.limit.max_gap) if verdict.limit.option else "",
            is_clear=gap.is_over,
        )
        for verdict in verdicts
        for gap in verdict.gaps[:NUM_GAPS]
    ]


def _gallery(gallery: Gallery) -> tuple[str, str, Sequence[ShownFace]]:
    title, note = GALLERIES[gallery.kind]
    where = "the rows without a split" if gallery.split == "unsplit" else f"the {gallery.split} split"
    return f"{title} {where}", note, gallery.faces


def verdicts(result: SplitResult) -> list[str]:
    """The answer in a few sentences: how wrong, better than nothing, and for whom it is worst."""
    found, m = [], result.summary
    constant = m.baselines.median_age
    if m.mae is not None:
        line = f"The predicted age is {m.mae:.1f} years off on average"
        if constant.mae is not None:
            line += f"; saying {constant.age:g} of everybody would be {constant.mae:.1f} off"
            high = (m.intervals["mae"] or [0, m.mae])[1]
            line += "." if high < constant.mae else ". So the model is not clearly better than that."
        found.append(line.rstrip(".") + ".")
        found += _worst_part("decade", result.worst.get("decade"))
        found.append(_bias(m, result.breakdowns.get("decade", [])))
        if m.cs_at_5 is not None and constant.cs_at_5 is not None and m.cs_at_5 < constant.cs_at_5:
            found.append(
                f"{percent(m.cs_at_5)} of its ages are at most 5 years off, fewer than the "
                f"{percent(constant.cs_at_5)} of always saying {constant.age:g}."
            )
    elif m.accuracy is not None:
        found.append(
            f"{percent(m.accuracy)} of the faces are put into the right group; there are no exact ages to compare."
        )
    found += [_comparison(row) for row in result.comparisons.get("all", [])]
    for key, worst in result.worst.items():
        found += _worst_part(key, worst) if key != "decade" else []
    found += _least_found(result.by_group)
    minors = next((band for band in result.gate if band.name == f"all under {GATE_AGE}" and band.num_rows), None)
    if minors:
        found.append(
            f"{percent(minors.wrong)} of the {minors.num_rows:,} minors would pass as {GATE_AGE} or older"
            f"{_few(minors.num_rows, [minors.wrong_low, minors.wrong_high])}."
        )
    for row in result.covered.get("all", []):
        bounds = interval([row.coverage_low, row.coverage_high], "{:.1%}")
        found.append(
            f"Its intervals are to hold the age of {percent(result.interval_coverage)}, and hold that of "
            f"{percent(row.coverage)} ({bounds}); they are {row.mean_width:.1f} years wide on average."
            f"{' They were made with these very faces: on new ones they may hold less.' * result.is_calibrated_on}"
        )
    found += _handed_over(result.handed_over)
    for part in result.missed.get("all", []):
        bounds = interval([part.missed_low, part.missed_high], "{:.1%}")
        found.append(
            f"In {percent(part.missed)} ({bounds}) of the {part.num_rows:,} photos no face was found to judge."
        )
    found += [verdict.line() for verdict in result.limits]
    for key, head in result.auxiliary.items():
        if head.num_rows:
            of_accuracy = interval(head.interval, "{:.1%}")
            found.append(
                f"The predicted {key} is the labelled one for {percent(head.accuracy)} ({of_accuracy}) of "
                f"{head.num_rows:,} faces."
            )
    return found


def _worst_part(key: str, worst: WorstPart | None) -> list[str]:
    """For whom the ages are worst, how sure that is, and of whom nothing is known."""
    if worst is None:
        return []
    who = f"people of {worst.name}" if key == "decade" else f"{worst.name} (by {BREAKDOWNS[key]})"
    others = f"{worst.others or 'the others'} {worst.mae_others:.1f}"
    off = f"{worst.mae:.1f} years off, {_side(worst.bias)} on average"
    if number(worst.mae, "{:.1f}") == number(abs(worst.bias), "{:.1f}"):
        off = _side(worst.bias, "years ")
    line = f"Worst for {who}: {off}; {others}. "
    few = f"These are only {worst.num_with_age:,} faces. " if worst.num_with_age < ENOUGH_FACES else ""
    line += f"{few}The difference is {number(worst.difference, '{:.1f}')} years"
    if worst.difference_low is not None:
        line += f" ({interval([worst.difference_low, worst.difference_high], '{:.1f}')})"
    is_clear = worst.difference_low is not None and worst.difference_low > 0
    line += ", hardly chance." if is_clear else ", which may be chance."
    if worst.too_few:
        counts = ", ".join(f"{name} ({count})" for name, count in worst.too_few.items())
        line += f" Too few faces to say anything: {counts}."
    return [line]


def _bias(m: Summary, decades: Sequence[PartScores]) -> str:
    """Whether ages are too old or too young, over all and, which may balance out, by decade of age."""
    biased = [
        f"{row.name} {number(row.bias, '{:+.1f}')}"
        for row in decades
        if row.num_with_age >= LEAST and _is_clear(row.bias_low, row.bias_high)
    ]
    assert m.bias is not None, "known wherever the mean absolute error is"
    bounds = m.intervals["bias"]
    ends = f" ({interval(bounds, '{:+.1f}')})" if bounds else ""
    is_balanced = bounds is not None and bounds[0] <= 0 <= bounds[1]
    line = f"Overall its ages are {_side(m.bias, 'years ')} on average{ends}"
    if biased:
        return f"{line}, {'but' if is_balanced else 'and'} by decade of age: {', '.join(biased)} years."
    return f"{line}, which may be chance." if is_balanced else f"{line}."


def _is_clear(low: float | None, high: float | None) -> bool:
    """Whether there is an interval, and zero is not in it."""
    return low is not None and high is not None and low * high > 0


def _side(bias: float, unit: str = "") -> str:
    return f"{abs(bias):.1f} {unit}too {'old' if bias > 0 else 'young'}"


def _least_found(by_group: Sequence[GroupScores]) -> list[str]:
    """The group that is found least often."""
    known = [(row.recall, row) for row in by_group if row.support >= LEAST and row.recall is not None]
    if len(known) < 2:
        return []
    _, least = min(known, key=lambda recall_and_row: recall_and_row[0])
    few = _few(least.support, [least.recall_low, least.recall_high])
    return [f"The group found least often is {least.name}: {percent(least.recall)} of its {least.support:,}{few}."]


def _few(num_rows: int, bounds: Sequence[float | None]) -> str:
    """What to add to the share of so many faces."""
    return f" (few faces: {interval(bounds, '{:.1%}')})" if num_rows < ENOUGH_FACES else ""


TOLD_SHARE = 0.1
"""Of the faces that go to a person, which the first lines tell of."""


def _handed_over(rows: Sequence[HandedOver]) -> list[str]:
    """What it is worth to ask a person about the faces that the model is least certain of."""
    everybody, few = (next((row for row in rows if row.handed_over == share), None) for share in (0.0, TOLD_SHARE))
    if everybody is None or few is None or everybody.num_rows - few.num_rows < LEAST:
        return []
    if few.mae is not None and everybody.mae is not None:
        then = f"{few.mae:.1f} years off on average instead of {everybody.mae:.1f}"
    else:
        then = f"in the right group {percent(few.accuracy)} of the time instead of {percent(everybody.accuracy)}"
    return [f"Where the tenth of the faces of which it is least certain goes to a person, the others are {then}."]


def _comparison(row: Comparison) -> str:
    """Whether this model is better than another one, over all the faces that both have scored."""
    if row.mae_difference is not None:
        difference, low, high, style = row.mae_difference, row.mae_difference_low, row.mae_difference_high, "{:+.2f}"
        side = "closer to" if difference < 0 else "further from"
        better = f"its ages are {abs(difference):.2f} years {side} the truth than those of the other model"
    elif row.accuracy_difference is not None:
        difference, low, high, style = (
            row.accuracy_difference, row.accuracy_difference_low, row.accuracy_difference_high, "{:+.1%}"
        )  # fmt: skip
        often = "more" if difference > 0 else "less"
        better = f"its groups are {percent(abs(difference))} {often} often right than those of the other model"
    else:
        return f"Of the {row.num_rows:,} faces that both models have scored none can be compared."
    between = "" if low is None else f" (difference {interval([low, high], style)})"
    doubt = "" if _is_clear(low, high) else ", which may be chance"
    return f"On the {row.num_rows:,} faces that both have scored {better}{between}{doubt}."


@dataclass(frozen=True)
class _Tile:
    """A headline: a number, its interval, and what always the same answer scores."""

    title: str
    meaning: str
    value: str
    interval: str
    baseline: str
    baseline_is: str


def _tiles(summary: Summary) -> list[_Tile]:
    median, majority = summary.baselines.median_age, summary.baselines.majority_group
    age = "–" if median.age is None else f"always {median.age:g} years"
    group = "–" if majority.group is None else f"always “{majority.group}”"
    years = "years off on average; lower is better"
    near, right = "of the ages at most 5 years off", "of the faces in the right group"
    mean = "mean F1 of the groups, each counted alike"
    tiles = [
        ("Mean absolute error", years, "{:.2f}", summary.mae, "mae", median.mae, age),
        ("CS@5", near, "{:.1%}", summary.cs_at_5, "cs_at_5", median.cs_at_5, age),
        ("Accuracy", right, "{:.1%}", summary.accuracy, "accuracy", majority.accuracy, group),
        ("Macro F1", mean, "{:.3f}", summary.macro_f1, "macro_f1", majority.macro_f1, group),
    ]
    return [
        _Tile(title, meaning, number(value, style), interval(summary.intervals[key], style), number(same, style), says)
        for title, meaning, style, value, key, same, says in tiles
        if value is not None
    ]


def _figures(result: SplitResult, card: Mapping[str, Any], group_names: Sequence[str]) -> dict[str, Markup]:
    """The page's figures by name; a figure without data is left out."""
    outcomes, figures = result.outcomes, {}
    if result.summary.mae is not None:
        figures["scatter"] = (
            plots.predicted_against_true(outcomes.true_age_N, outcomes.predicted_age_N),
            "Predicted against true age",
        )
        figures["errors"] = plots.error_histogram(outcomes.error_N), "How often each error occurs"
        for key, parts in result.breakdowns.items():
            if key != CROSSED and any(part.mae is not None for part in parts):
                figures[key] = plots.error_by_subgroup(parts), f"Mean absolute error and bias by {BREAKDOWNS[key]}"
    if result.summary.accuracy is not None:
        figures["confusion"] = plots.confusion(result.confusion, group_names), "Confusion matrix"
        figures["groups"] = (
            plots.group_distribution(outcomes.true_group_N, outcomes.predicted_group_N, group_names),
            "True and predicted number of faces by group",
        )
    sure = {what: rows for what, rows in result.reliability.items() if what != doubt.INTERVALS}
    if spans := result.reliability.get(doubt.INTERVALS):
        labels = "share that the interval is to hold, %", "ages inside, %"
        figures["spans"] = plots.reliability({doubt.INTERVALS: spans}, *labels), "Share of ages in central intervals"
    if sure:
        labels = "predicted probability, %", "so it was, %"
        figures["sure"] = plots.reliability(sure, *labels), "How often what is predicted with a probability is so"
    if result.handed_over:
        figures["handed_over"] = plots.handed_over(result.handed_over), "Error of the faces that are left"
    if by_decade := result.covered.get("predicted decade"):
        assert result.interval_coverage is not None, "known wherever anything is covered"
        figures["covered"] = (
            plots.coverage(by_decade, result.interval_coverage),
            f"Share of intervals that hold the age, by {BREAKDOWNS['predicted decade']}",
        )
    epochs = [row for row in card.get("history") or [] if row.get("epoch") is not None]
    if epochs:
        figures["training"] = plots.training_curves(epochs, card.get("metric")), "Loss and validation metric by epoch"
    return inline(figures)


def _rows_of_card(card: Mapping[str, Any]) -> list[tuple[str, str]]:
    told_elsewhere = ("blocks", "history", "age_groups")
    shown = {key: value for key, value in card.items() if key not in told_elsewhere and value not in UNKNOWN}
    return [(key.replace("num_", "number of ").replace("_", " "), text(value)) for key, value in shown.items()]


def _tables(results: Sequence[SplitResult], group_names: Sequence[str]) -> dict[str, str]:
    """The text of each CSV by its name; every table has the column ``split`` first."""
    tables: dict[str, list[dict[str, object]]] = {"by_group": [], "age_gate": [], "confusion": [], "left_out": []}
    for result in results:
        split = {"split": result.name}
        tables["by_group"] += [split | asdict(row) for row in result.by_group]
        tables["age_gate"] += [split | asdict(band) for band in result.gate]
        for key, rows in result.breakdowns.items():
            tables.setdefault(f"by_{key.replace('+', '_')}", []).extend(split | asdict(row) for row in rows)
        for key, covered in result.covered.items():
            tables.setdefault("intervals", []).extend(split | {"part": key} | asdict(row) for row in covered)
        for what, reliable in result.reliability.items():
            tables.setdefault("reliability", []).extend(split | {"of": what} | asdict(row) for row in reliable)
        tables.setdefault("handed_over", []).extend(split | asdict(row) for row in result.handed_over)
        tables.setdefault("leaks", []).extend(split | asdict(row) for row in result.leaks)
        for verdict in [result.differences, *result.limits] if result.differences else result.limits:
            limit = {"limit": verdict.limit.option}
            tables.setdefault("gaps", []).extend(split | limit | asdict(gap) for gap in verdict.gaps)
        for key, missed in result.missed.items():
            tables.setdefault("missed", []).extend(split | {"part": key} | asdict(row) for row in missed)
        for key, compared in result.comparisons.items():
            tables.setdefault("against", []).extend(split | {"part": key} | asdict(row) for row in compared)
        for name, counts in zip(group_names, result.confusion.tolist(), strict=True):
            predicted = {
                f"predicted {other}": count for other, count in zip([*group_names, "none"], counts, strict=True)
            }
            tables["confusion"].append(split | {"true": name} | predicted)
        for why, counts_by in (("not scored", result.not_scored), ("finding", result.findings)):
            tables["left_out"] += [split | {"why": why, "kind": kind, "num_rows": n} for kind, n in counts_by.items()]
    return {f"{name}.csv": _csv(rows) for name, rows in tables.items() if rows}


def _csv(rows: Iterable[Mapping[str, object]]) -> str:
    plain = [_rounded(row) for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(plain[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain)
    return text.getvalue()


def _rounded(value: Any) -> Any:
    """``value`` with every float to six decimals, which is more than any number here means."""
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value

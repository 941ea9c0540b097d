"""Page `prediction`: what the check says beforehand, and what became of the retriever."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from experiments.study import prediction
from experiments.study.analysis import EARLY, OUTCOMES, Predictions, Rule
from experiments.study.before import VERDICT
from experiments.study.cells import Result
from experiments.study.figures import draw_bars, draw_scatter
from experiments.study.pages.text import (
    FEW,
    PRIMARY,
    command,
    file_name,
    interval,
    label,
    mean,
    table,
    with_n,
)
from experiments.study.prediction import BEYOND_LENGTH, GAIN
from experiments.study.readers import INITIAL, SECOND
from experiments.study.teachers import CONTROLS, Teacher
from lightning_modules.metrics.estimates import Estimate

CHECK_MEASURES = (
    "auc",
    "auc_at_equal_length",
    "mrr",
    "mass_on_answers",
    "length_tau_size",
    "fixed_preference",
)
"""What a rule for the verdict may go by: all that the check knows beside the indicators."""
INDICATORS = tuple(
    f"indicator{n}/{part}_p{p}" for n in (1, 2) for part in ("spearman", "lift") for p in (90, 95)
)
FEWEST_TEACHERS = 8
"""Of fewer no correlation is shown, nor a rule."""
PAPERS = "indicator1/spearman_p90"
PAPERS_SECOND = "indicator2/lift_p90"
_IN_FINDINGS = (PRIMARY, "auc", "fixed_preference", VERDICT, PAPERS, PAPERS_SECOND, EARLY)


def of_prediction(results: Sequence[Result], out: Path) -> tuple[list[str], list[str]]:
    """The findings in sentences, and the lines of the page; both empty without results."""
    found = Predictions(results)
    if not found.teachers:
        return [], []
    page = ["# What the check says beforehand, and what became of the retriever", ""]
    page += [command(prediction.NAME), "", *_table_of_teachers(found)]
    sentences = [of_gains(found)]
    if len(found.readers_teachers) < FEWEST_TEACHERS:
        too_few = (
            f"{len(found.readers_teachers)} teachers with a reader have taught with every seed; what "
            f"predicts their gains is not said of fewer than {FEWEST_TEACHERS}."
        )
        return [*sentences, too_few], [*page, "", too_few]
    groups = _groups(found)
    for outcome, words in OUTCOMES.items():
        columns = {head: found.correlations(outcome, of) for head, of in groups.items()}
        ceilings = {head: found.ceiling(outcome, of) for head, of in groups.items()}
        page += ["", f"## Which measure orders teachers by their {words}?", ""]
        page += _correlations(columns, ceilings, outcome, out)
        if outcome == BEYOND_LENGTH:
            sentences += _of_correlations(found, columns[_ATTENDING], ceilings[_ATTENDING])
    rules = {name: found.rule(measures) for name, measures in _RULES.items()}
    page += ["", *_scatters(found, out), "## A rule for the verdict", "", *_rules(found, rules)]
    sentences += _of_rules(found, rules[_OF_CHECK])
    return [*sentences, "", "![AUC at equal length and gain](gain-by-auc.svg)"], page


def _table_of_teachers(found: Predictions) -> list[str]:
    shown = (PRIMARY, "auc", "length_tau", "fixed_preference", PAPERS, VERDICT)
    rows = []
    for teacher in sorted(found.teachers, key=lambda of: -found.estimate(of.name, BEYOND_LENGTH).mean):
        before, worth = found.before(teacher.name), found.is_worth_it[teacher.name]
        rows.append(
            [
                teacher.name,
                teacher.family,
                *(mean(before.get(name)) for name in shown),
                interval(found.estimate(teacher.name, GAIN)),
                interval(found.estimate(teacher.name, BEYOND_LENGTH)),
                "undecided" if worth is None else "yes" if worth else "no",
            ]
        )
    heads = ["teacher", "family", *(label(name) for name in shown), "gain", "beyond length", "worth it"]
    about = (
        f"{len(found.readers_teachers)} teachers with a reader and {len(rows) - len(found.readers_teachers)} "
        f"controls, {found.num_seeds} seeds each; changes of the Hit Rate@5. *Worth it*: beyond length "
        "surely more than half of the way from no teacher (`uniform`) to true labels; *no*: surely less. "
        "Indicators are of the attention that teaches, so that a likelihood has none."
    )
    missing = [f"Left out, since a seed is missing: {', '.join(found.left_out)}.", ""] * bool(found.left_out)
    return [about, "", *missing, *table(heads, rows)]


def of_gains(found: Predictions) -> str:
    """The best and the worst teacher, and the controls, in a sentence."""
    named = {of.name: found.estimate(of.name, BEYOND_LENGTH) for of in found.readers_teachers}
    if not named:
        return "Controls alone have taught so far."
    best = max(named, key=lambda name: named[name].mean)
    worst = min(named, key=lambda name: named[name].mean)
    start = np.mean([np.mean(result.questions["start/hr_at_5"]) for result in found.results[best]])
    controls = ", ".join(
        f"{name} {interval(found.estimate(name, BEYOND_LENGTH))}"
        for name in CONTROLS
        if name in found.results
    )
    return (
        f"From the same start (HR@5 {start:.3f}) and the same candidates, the best of {len(named)} teachers "
        f"with a reader ({best}) changes HR@5 beyond length by {interval(named[best])}, the worst ({worst}) "
        f"by {interval(named[worst])}; controls: {controls}."
    )


_ATTENDING = "all can be measured of"


def _groups(found: Predictions) -> dict[str, list[Teacher]]:
    """Teachers that correlations are over, by what their column is called."""
    return {
        _ATTENDING: found.attending,
        "with a reader": found.readers_teachers,
        "of the initial reader": found.of_reader(INITIAL),
        "of the second reader": found.of_reader(SECOND),
        "that had not taught before": found.new,
        "and controls": found.teachers,
    }


def _correlations(
    columns: dict[str, dict[str, Estimate]], ceilings: dict[str, float], outcome: str, out: Path
) -> list[str]:
    words, first = OUTCOMES[outcome], columns[_ATTENDING]
    draw_bars(
        [(label(name), of) for name, of in first.items() if not math.isnan(of.mean) and name != FEW],
        f"Spearman's correlation with the {words}",
        out / f"correlations-{file_name(outcome)}.svg",
    )
    rows = [
        [label(name), *(with_n(of_group.get(name)) for of_group in columns.values())]
        for name, of in first.items()
        if not math.isnan(of.mean) and name != FEW
    ]
    known = [f"{ceiling:.2f}" for ceiling in ceilings.values()]
    return [
        f"![Correlations with the {words}](correlations-{file_name(outcome)}.svg)",
        "",
        "Spearman's correlations over teachers, with the number of teachers in round brackets.",
        "",
        *table(["measured before", *columns], [*rows, ["*how well the gains are known*", *known]]),
    ]


def _of_correlations(found: Predictions, known: dict[str, Estimate], ceiling: float) -> list[str]:
    """Of the gain beyond length, and of measures that were named before."""
    named = ", ".join(f"{label(name)} {interval(known[name], 2)}" for name in _IN_FINDINGS if name in known)
    sentence = (
        f"With the gain beyond length correlate over the {len(found.attending)} teachers that attend "
        f"(Spearman): {named}; the gains themselves are known to {ceiling:.2f}."
    )
    strongest = next((name for name, of in known.items() if not math.isnan(of.mean)), None)
    if strongest is not None and strongest not in _IN_FINDINGS:
        sentence += (
            f" Of all {len(known)}, looked at afterwards, the strongest is {label(strongest)}, "
            f"{interval(known[strongest], 2)}."
        )
    sentences = [sentence]
    compared = {
        other: advantage
        for other in (PAPERS, PAPERS_SECOND, "fixed_preference")
        if (advantage := found.advantage(PRIMARY, other, BEYOND_LENGTH)) is not None
        and not math.isnan(advantage.mean)
    }
    if compared:
        said = "; ".join(
            f"than that of {label(other)} by {interval(of, 2)}"
            f"{'' if of.low > 0 or of.high < 0 else ' (they cannot be told apart)'}"
            for other, of in compared.items()
        )
        sentences.append(f"The correlation of {label(PRIMARY)}, named before, is larger {said}.")
    return sentences


def _scatters(found: Predictions, out: Path) -> list[str]:
    page = []
    for name, file in ((PRIMARY, "gain-by-auc"), (PAPERS, "gain-by-indicator1")):
        points = [
            (of.family, found.before(of.name)[name], found.estimate(of.name, BEYOND_LENGTH))
            for of in found.teachers
            if name in found.before(of.name) and not math.isnan(found.before(of.name)[name].mean)
        ]
        if points:
            draw_scatter(points, (label(name), "change of HR@5 beyond length"), out / f"{file}.svg")
            page += [f"![{label(name)} and gain]({file}.svg)", ""]
    return page


_OF_CHECK = "one measure of the check"
_RULES = {
    _OF_CHECK: CHECK_MEASURES,
    "AUC at equal length alone": (PRIMARY,),
    "one part of the paper's indicators": INDICATORS,
}


def _rules(found: Predictions, rules: dict[str, Rule | None]) -> list[str]:
    rows = []
    for name, rule in rules.items():
        if rule is not None:
            chosen = Counter(measure for measure in rule.left_out.chosen if measure)
            rows.append(
                [
                    name,
                    str(rule.num_teachers),
                    ", ".join(f"{label(measure)} ({times})" for measure, times in chosen.most_common()),
                    f"{rule.correlation:.2f}",
                    f"{rule.error:.3f}",
                    f"{rule.error_of_mean:.3f}",
                    interval(rule.advantage),
                    str(rule.num_decided),
                    "-" if math.isnan(rule.accuracy) else f"{rule.accuracy:.2f}",
                ]
            )
    if not rows:
        return ["Too few teachers have strangers that have taught with every seed."]
    heads = [
        "goes by",
        "teachers",
        "chosen (times)",
        "Spearman of predicted and true",
        "mean error",
        "error of the strangers' mean",
        "difference",
        "decided",
        "balanced accuracy",
    ]
    return [
        "For each teacher a rule is made of its strangers alone, the teachers that have neither its reader "
        "nor its signals: the measure that orders them best, and a straight line. It says *worth it* where "
        "what it predicts is above the bound. The *difference* of both errors has an interval over "
        "families. *Balanced accuracy*, over teachers of which that is decided: 0.5 is chance.",
        "",
        *table(heads, rows),
        "",
        "The check's own verdict of the teachers with a reader, as it was when the study was run, and as it "
        "has been since, which also looks at the order for an unrelated question; of the second reader's "
        "teachers, which had no part in that change, by themselves:",
        "",
        *table(["verdict", "worth it", "undecided", "not worth it"], _verdict_rows(found)),
    ]


_WORTH = (True, None, False)


def _verdict_rows(found: Predictions) -> list[list[str]]:
    groups = {
        "then": (found.verdict_then, found.readers_teachers),
        "now": (found.verdict_now, found.readers_teachers),
        "now, second reader": (found.verdict_now, found.of_reader(SECOND)),
    }
    return [
        [f"{name}: {words}", *counts]
        for name, (verdict, of) in groups.items()
        for words, counts in _verdict_counts(found, verdict, of).items()
        if of
    ]


def _verdict_counts(
    found: Predictions, verdict: Callable[[str], float], of: Sequence[Teacher]
) -> dict[str, list[str]]:
    """How many of each verdict were worth it, undecided, and not worth it."""
    verdicts = list(found.verdicts(verdict, of).values())
    return {
        words: [str(sum(v == value and worth is is_worth for v, worth in verdicts)) for is_worth in _WORTH]
        for words, value in (("go", 1.0), ("unsure", 0.0), ("no-go", -1.0))
    }


def _of_rules(found: Predictions, rule: Rule | None) -> list[str]:
    then, now = (
        "; ".join(
            f"{words}: {worth} worth it, {undecided} undecided, {not_worth} not"
            for words, (worth, undecided, not_worth) in _verdict_counts(
                found, verdict, found.readers_teachers
            ).items()
        )
        for verdict in (found.verdict_then, found.verdict_now)
    )
    sentences = [
        f"What the check said of the teachers with a reader, and what they were: {then}. With the order for "
        f"an unrelated question, at which it looks since then: {now}."
    ]
    if rule is not None:
        sentences.append(
            f"A rule that goes by one measure of the check, made for each of {rule.num_teachers} teachers of "
            f"others that share neither its reader nor its signals, errs by {rule.error:.3f} HR@5 beyond "
            f"length on average, where the mean of those others errs by {rule.error_of_mean:.3f}: "
            f"{interval(rule.advantage)} less."
        )
    return sentences

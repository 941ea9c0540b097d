"""Page `prediction`: what the check says beforehand, and what became of the retriever."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.show.text import table
from experiments.study.analysis import (
    EARLY,
    LABELS,
    NO_TEACHER,
    OUTCOMES,
    PAPERS,
    PAPERS_SECOND,
    PRIMARY,
    SAME_ORDER,
    Predictions,
    is_sure,
)
from experiments.study.before import VERDICT
from experiments.study.cells import Result
from experiments.study.derived.of_prediction import (
    ABOVE_HALF,
    ATTENDING,
    CHOSEN,
    CONTROLS,
    CORRELATION,
    CORRELATION_LESS,
    FEWEST_TEACHERS,
    GROUPS,
    JUDGED,
    OF_CHECK,
    PRIMARY_ALONE,
    SAID,
    START,
    WITH_A_READER,
    WORTH,
    Judged,
)
from experiments.study.figures import draw_bars, draw_scatter
from experiments.study.numbers import Numbers
from experiments.study.pages.text import (
    FEW,
    command,
    count,
    file_name,
    interval,
    label,
    mean,
    with_n,
)
from experiments.study.prediction import BEYOND_LENGTH, GAIN, NAME
from experiments.study.rules import STRANGERS
from experiments.study.teachers import CONTROLS as CONTROL_TEACHERS
from lightning_modules.metrics.estimates import Estimate
from lightning_modules.metrics.prediction import FEWEST_FOR_INTERVAL

_IN_FINDINGS = (PRIMARY, "auc", SAME_ORDER, VERDICT, PAPERS, PAPERS_SECOND, EARLY)


def of_prediction(results: Sequence[Result], numbers: Numbers, out: Path) -> tuple[list[str], list[str]]:
    """The findings in sentences, and the lines of the page; both empty without results."""
    found = Predictions(results)
    if not found.teachers:
        return [], []
    page = ["# What the check says beforehand, and what became of the retriever", ""]
    page += [command(NAME), "", *_table_of_teachers(found, numbers)]
    sentences = [of_gains(found, numbers)]
    if not numbers.at(NAME, outcome=BEYOND_LENGTH, teachers=ATTENDING):
        too_few = (
            f"{_num(numbers, WITH_A_READER)} teachers with a reader have taught with every seed; what "
            f"predicts their gains is not said of fewer than {FEWEST_TEACHERS}."
        )
        return [*sentences, too_few], [*page, "", too_few]
    for outcome, words in OUTCOMES.items():
        page += ["", f"## Which measure orders teachers by their {words}?", ""]
        page += _correlations(numbers, outcome, out)
    page += ["", *_scatters(found, numbers, out), "## A rule for the verdict", "", *_rules(numbers)]
    sentences += [*_of_correlations(numbers), *_of_rules(numbers)]
    return [*sentences, "", "![AUC at equal length and gain](gain-by-auc.svg)"], page


def _num(numbers: Numbers, group: str) -> str:
    """How many teachers a group has."""
    return count(numbers.at(NAME, teachers=group)["teachers"])


def _gain_of(numbers: Numbers, teacher: str) -> Estimate:
    """Beyond length."""
    return numbers.at(NAME, teacher=teacher)[BEYOND_LENGTH]


def _table_of_teachers(found: Predictions, numbers: Numbers) -> list[str]:
    shown = (PRIMARY, "auc", "length_tau", SAME_ORDER, PAPERS, VERDICT)
    rows = []
    for teacher in sorted(found.teachers, key=lambda of: -_gain_of(numbers, of.name).mean):
        before, after = found.before(teacher.name), numbers.at(NAME, teacher=teacher.name)
        rows.append(
            [
                teacher.name,
                teacher.family,
                *(mean(before.get(name)) for name in shown),
                interval(after[GAIN]),
                interval(after[BEYOND_LENGTH]),
                {True: "yes", None: "undecided", False: "no"}[is_sure(after.get(ABOVE_HALF))],
            ]
        )
    heads = ["teacher", "family", *(label(name) for name in shown), "gain", "beyond length", "worth it"]
    about = (
        f"{_num(numbers, WITH_A_READER)} teachers with a reader and {_num(numbers, CONTROLS)} controls, "
        f"{count(numbers.at(NAME)['seeds'])} seeds each; changes of the Hit Rate@5. *Worth it*: beyond "
        f"length surely more than half of the way from no teacher (`{NO_TEACHER}`) to true {LABELS}; *no*: "
        "surely less. Indicators are of the attention that teaches, so that a likelihood has none."
    )
    missing = [f"Left out, since a seed is missing: {', '.join(found.left_out)}.", ""] * bool(found.left_out)
    return [about, "", *missing, *table(heads, rows)]


def of_gains(found: Predictions, numbers: Numbers) -> str:
    """The best and the worst teacher, and the controls, in a sentence."""
    named = {of.name: _gain_of(numbers, of.name) for of in found.readers_teachers}
    if not named:
        return "Controls alone have taught so far."
    best = max(named, key=lambda name: named[name].mean)
    worst = min(named, key=lambda name: named[name].mean)
    controls = ", ".join(
        f"{name} {interval(_gain_of(numbers, name))}" for name in CONTROL_TEACHERS if name in found.results
    )
    return (
        f"From the same start (HR@5 {numbers.at(NAME, teacher=best)[START].mean:.3f}) and the same "
        f"candidates, the best of {_num(numbers, WITH_A_READER)} teachers with a reader ({best}) changes "
        f"HR@5 beyond length by {interval(named[best])}, the worst ({worst}) by {interval(named[worst])}; "
        f"controls: {controls}."
    )


def _of_measures(over: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Correlations by measure, the strongest first."""
    return {name.removeprefix(CORRELATION): of for name, of in over.items() if name.startswith(CORRELATION)}


def _correlations(numbers: Numbers, outcome: str, out: Path) -> list[str]:
    words = OUTCOMES[outcome]
    over = {group: numbers.at(NAME, outcome=outcome, teachers=group) for group in GROUPS}
    first = {name: of for name, of in _of_measures(over[ATTENDING]).items() if name != FEW}
    draw_bars(
        [(label(name), of) for name, of in first.items()],
        f"Spearman's correlation with the {words}",
        out / f"correlations-{file_name(outcome)}.svg",
    )
    columns = [_of_measures(of_group) for of_group in over.values()]
    rows = [[label(name), *(with_n(column.get(name)) for column in columns)] for name in first]
    known = [mean(of_group.get("reliability")) for of_group in over.values()]
    return [
        f"![Correlations with the {words}](correlations-{file_name(outcome)}.svg)",
        "",
        "Spearman's correlations over teachers, with the number of teachers in round brackets. Over fewer "
        f"than {FEWEST_FOR_INTERVAL} teachers there is no interval: it would hold nearly every correlation.",
        "",
        *table(
            ["measured before", *(of.words for of in GROUPS.values())],
            [*rows, ["*how well the gains are known*", *known]],
        ),
    ]


def _of_correlations(numbers: Numbers) -> list[str]:
    """Of the gain beyond length, and of measures that were named before."""
    over = numbers.at(NAME, outcome=BEYOND_LENGTH, teachers=ATTENDING)
    known = _of_measures(over)
    named = ", ".join(f"{label(name)} {interval(known[name], 2)}" for name in _IN_FINDINGS if name in known)
    sentence = (
        f"With the gain beyond length correlate over the {count(over['teachers'])} teachers that attend "
        f"(Spearman): {named}; the gains themselves are known to {mean(over.get('reliability'))}."
    )
    strongest = next(iter(known), None)
    if strongest is not None and strongest not in _IN_FINDINGS:
        sentence += (
            f" Of all {count(over['measures'])}, looked at afterwards, the strongest is {label(strongest)}, "
            f"{interval(known[strongest], 2)}."
        )
    sentences = [sentence]
    for compared in numbers.having(NAME, "measure", outcome=BEYOND_LENGTH, teachers=ATTENDING):
        said = "; ".join(
            f"than that of {label(name.removeprefix(CORRELATION_LESS))} by {interval(of, 2)}"
            f"{' (they cannot be told apart)' if is_sure(of) is None else ''}"
            for name, of in compared.measures.items()
        )
        named_before = ", named before," * (compared["measure"] == PRIMARY)
        sentences.append(f"The correlation of {label(compared['measure'])}{named_before} is larger {said}.")
    return sentences


def _scatters(found: Predictions, numbers: Numbers, out: Path) -> list[str]:
    page = []
    for name, file in ((PRIMARY, "gain-by-auc"), (PAPERS, "gain-by-indicator1")):
        points = [
            (of.family, found.before(of.name)[name], _gain_of(numbers, of.name))
            for of in found.teachers
            if name in found.before(of.name) and not math.isnan(found.before(of.name)[name].mean)
        ]
        if points:
            draw_scatter(points, (label(name), "change of HR@5 beyond length"), out / f"{file}.svg")
            page += [f"![{label(name)} and gain]({file}.svg)", ""]
    return page


def _rules(numbers: Numbers) -> list[str]:
    rows = []
    for found in numbers.having(NAME, "rule", "strangers"):
        rule = found.measures
        chosen = {of.removeprefix(CHOSEN): times for of, times in rule.items() if of.startswith(CHOSEN)}
        rows.append(
            [
                found["rule"],
                STRANGERS[found["strangers"]].words,
                count(rule["teachers"]),
                count(rule["strangers"]),
                ", ".join(f"{label(measure)} ({count(times)})" for measure, times in chosen.items()),
                mean(rule.get("correlation")),
                f"{rule['error'].mean:.3f}",
                f"{rule['error_of_mean'].mean:.3f}",
                interval(rule["advantage"]),
                count(rule["decided"]),
                mean(rule.get("balanced_accuracy")),
            ]
        )
    if not rows:
        return ["Too few teachers have strangers that have taught with every seed."]
    heads = [
        "goes by",
        "strangers share neither",
        "teachers",
        "strangers (median)",
        "chosen (times)",
        "Spearman of predicted and true",
        "mean error",
        "error of the strangers' mean",
        "difference",
        "decided",
        "balanced accuracy",
    ]
    return [
        "For each teacher a rule is made of its strangers alone: the measure that orders them best, and a "
        "straight line. Strangers are teachers with another reader and other signals; readers that were made "
        "of one another, by training or shuffling, count as others by name, and not where strangers must "
        "have another base model: there are two of these at most, so that fewer teachers have strangers "
        "enough then, and most of them few. The rule says *worth it* where what it predicts is above the "
        "bound. The *difference* of both errors has an interval over families. *Balanced accuracy*, over "
        "teachers of which that is decided: 0.5 is chance.",
        "",
        *table(heads, rows),
        "",
        "The check's own verdict of the teachers with a reader, as it was when the study was run, and as it "
        "has been since, which also looks at the order for an unrelated question; of the second reader's "
        "teachers, which had no part in that change, by themselves:",
        "",
        *table(["verdict", "worth it", "undecided", "not worth it"], _verdict_rows(numbers)),
    ]


def _verdict_rows(numbers: Numbers) -> list[list[str]]:
    return [
        [f"{name}: {said}", *counts]
        for name, judged in JUDGED.items()
        for said, counts in _verdict_counts(numbers, judged).items()
    ]


def _verdict_counts(numbers: Numbers, judged: Judged) -> dict[str, list[str]]:
    """How many of each verdict were worth it, undecided, and not worth it."""
    factors = {"teachers": judged.group, "verdict": judged.verdict}
    found = {said: numbers.at(NAME, **factors, said=said) for said in SAID}
    return {said: [count(of[what]) for what in WORTH] for said, of in found.items() if of}


def _of_rules(numbers: Numbers) -> list[str]:
    then, now = (
        "; ".join(
            f"{words}: {worth} worth it, {undecided} undecided, {not_worth} not"
            for words, (worth, undecided, not_worth) in _verdict_counts(numbers, JUDGED[name]).items()
        )
        for name in ("then", "now")
    )
    sentences = [
        f"What the check said of the teachers with a reader, and what they were: {then}. With the order for "
        f"an unrelated question, at which it looks since then: {now}."
    ]
    for name in (OF_CHECK, PRIMARY_ALONE):
        said = [
            f"of {count(of.measures['teachers'])} teachers, made of others that share neither "
            f"{STRANGERS[of['strangers']].words}, by {of.measures['error'].mean:.3f} HR@5 beyond length on "
            f"average where the mean of those others errs by {of.measures['error_of_mean'].mean:.3f} "
            f"({interval(of.measures['advantage'])} less), balanced accuracy "
            f"{mean(of.measures.get('balanced_accuracy'))}"
            for of in numbers.having(NAME, "strangers", rule=name)
        ]
        if said:
            sentences.append(f"A rule that goes by {name} errs: {'; '.join(said)}.")
    return sentences

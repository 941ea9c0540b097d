"""The pages of the study, written from the table of all results alone."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from experiments.config import ConfigError
from experiments.study import collapse, prediction, stopping, tables, teacher_table
from experiments.study.analysis import EARLY, OUTCOMES, VERDICT_NOW, Predictions, Rule, crossed_estimate
from experiments.study.before import VERDICT
from experiments.study.cells import Result, of_part
from experiments.study.figures import draw_bars, draw_curves, draw_scatter
from experiments.study.prediction import BEYOND_LENGTH, GAIN
from experiments.study.readers import INITIAL, SECOND
from experiments.study.stopping import validations_of
from experiments.study.teachers import CONTROLS, Teacher
from lightning_modules.metrics.estimates import Estimate
from lightning_modules.metrics.measures import measure_labels

ADVICE = "advice.md"
"""Written by hand; each cell that it cites, `(cell: NAME)`, must be in the table."""
_HOW = "how.md"
"""Written by hand: what was run, and what was cut down for the cost."""

LABELS = {
    "auc": "teacher AUC",
    "auc_at_equal_length": "AUC at equal length",
    "mrr": "MRR",
    "mass_on_answers": "mass on answers",
    "entropy": "entropy of the target",
    "length_tau": "Kendall's tau with length",
    "length_tau_size": "Kendall's tau with length, without its sign",
    "gold_above_longest": "gold above the longest",
    "fixed_preference": "preference whatever is asked",
    VERDICT: "the check's verdict, then",
    VERDICT_NOW: "the check's verdict, now",
    EARLY: "validation after a quarter of the training",
    **measure_labels(),
}
"""Of what is measured before."""
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


def write_pages(results: Sequence[Result], out: Path) -> None:
    """Writes the pages for which there are results into a folder.

    Raises:
        ConfigError: the advice cites a cell that is not there.
    """
    out.mkdir(parents=True, exist_ok=True)
    check_advice(results, out / ADVICE)
    writers: dict[str, Callable[[Sequence[Result], Path], tuple[list[str], list[str]]]] = {
        prediction.NAME: _prediction,
        stopping.NAME: _stopping,
        teacher_table.NAME: _teachers,
        collapse.NAME: _collapse,
        tables.NAME: _tables,
    }
    findings: list[str] = []
    links: list[str] = []
    for name, write in writers.items():
        found, page = write(results, out)
        if not page:
            continue
        (out / f"{name}.md").write_text("\n".join(page).rstrip() + "\n", encoding="utf-8")
        findings += [f"**{name}** ([all numbers]({name}.md))", "", *found, ""]
        links.append(f"[{name}]({name}.md)")
    how = out / _HOW
    lines = ["# The study", "", _ABOUT, "", "## Findings", "", *findings]
    if (out / ADVICE).is_file():
        lines += [f"What follows for who wants to train a retriever: [advice]({ADVICE}).", ""]
    if how.is_file():
        lines += [how.read_text(encoding="utf-8").rstrip()]
    (out / "README.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


_ABOUT = (
    "Does the pre-flight check know beforehand what a teacher does to a retriever? Written by `python -m "
    "experiments.study` from [results.parquet](results.parquet), which has a row for each cell and measure; "
    "numbers in square brackets are 95% intervals."
)


def check_advice(results: Sequence[Result], path: Path) -> None:
    """Refuses advice that cites a cell which the table does not hold.

    Raises:
        ConfigError: names the first of them.
    """
    if not path.is_file():
        return
    cells = {result.cell.name for result in results}
    for cited in re.findall(r"`([a-z]+/[^`]*seed=\d+)`", path.read_text(encoding="utf-8")):
        if cited not in cells:
            raise ConfigError(
                f"{path} cites {cited}, which is no cell of the table; run it, or correct the page"
            )


# ---- prediction ----


FEWEST_TEACHERS = 8
"""Of fewer no correlation is shown, nor a rule."""
PRIMARY = "auc_at_equal_length"
"""The measure whose correlation was the study's question before it was run; the others are beside it."""
PAPERS = "indicator1/spearman_p90"
_IN_FINDINGS = (PRIMARY, "auc", "fixed_preference", VERDICT, PAPERS, EARLY)


def _prediction(results: Sequence[Result], out: Path) -> tuple[list[str], list[str]]:
    found = Predictions(results)
    if not found.teachers:
        return [], []
    page = ["# What the check says beforehand, and what became of the retriever", ""]
    page += [_command(prediction.NAME), "", *_table_of_teachers(found)]
    sentences = [_of_gains(found)]
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
                *(_mean(before.get(name)) for name in shown),
                _interval(found.estimate(teacher.name, GAIN)),
                _interval(found.estimate(teacher.name, BEYOND_LENGTH)),
                "undecided" if worth is None else "yes" if worth else "no",
            ]
        )
    heads = ["teacher", "family", *(_label(name) for name in shown), "gain", "beyond length", "worth it"]
    about = (
        f"{len(found.readers_teachers)} teachers with a reader and {len(rows) - len(found.readers_teachers)} "
        f"controls, {found.num_seeds} seeds each; changes of the Hit Rate@5. *Worth it*: beyond length "
        "surely more than half of the way from no teacher (`uniform`) to true labels; *no*: surely less. "
        "Indicators are of the attention that teaches, so that a likelihood has none."
    )
    missing = [f"Left out, since a seed is missing: {', '.join(found.left_out)}.", ""] * bool(found.left_out)
    return [about, "", *missing, *_table(heads, rows)]


def _of_gains(found: Predictions) -> str:
    named = {of.name: found.estimate(of.name, BEYOND_LENGTH) for of in found.readers_teachers}
    if not named:
        return "Controls alone have taught so far."
    best = max(named, key=lambda name: named[name].mean)
    worst = min(named, key=lambda name: named[name].mean)
    start = np.mean([np.mean(result.questions["start/hr_at_5"]) for result in found.results[best]])
    controls = ", ".join(
        f"{name} {_interval(found.estimate(name, BEYOND_LENGTH))}"
        for name in CONTROLS
        if name in found.results
    )
    return (
        f"From the same start (HR@5 {start:.3f}) and the same candidates, the best of {len(named)} teachers "
        f"with a reader ({best}) changes HR@5 beyond length by {_interval(named[best])}, the worst ({worst}) "
        f"by {_interval(named[worst])}; controls: {controls}."
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
        [(_label(name), of) for name, of in first.items() if not math.isnan(of.mean)],
        f"Spearman's correlation with the {words}",
        out / f"correlations-{_file(outcome)}.svg",
    )
    rows = [
        [_label(name), *(_with_n(of_group.get(name)) for of_group in columns.values())]
        for name, of in first.items()
        if not math.isnan(of.mean)
    ]
    known = [f"{ceiling:.2f}" for ceiling in ceilings.values()]
    return [
        f"![Correlations with the {words}](correlations-{_file(outcome)}.svg)",
        "",
        "Spearman's correlations over teachers, with the number of teachers in round brackets.",
        "",
        *_table(["measured before", *columns], [*rows, ["*how well the gains are known*", *known]]),
    ]


def _of_correlations(found: Predictions, known: dict[str, Estimate], ceiling: float) -> list[str]:
    """Of the gain beyond length, and of measures that were named before."""
    named = ", ".join(f"{_label(name)} {_interval(known[name], 2)}" for name in _IN_FINDINGS if name in known)
    sentence = (
        f"With the gain beyond length correlate over the {len(found.attending)} teachers that attend "
        f"(Spearman): {named}; the gains themselves are known to {ceiling:.2f}."
    )
    strongest = next((name for name, of in known.items() if not math.isnan(of.mean)), None)
    if strongest is not None and strongest not in _IN_FINDINGS:
        sentence += (
            f" Of all {len(known)}, looked at afterwards, the strongest is {_label(strongest)}, "
            f"{_interval(known[strongest], 2)}."
        )
    sentences = [sentence]
    advantage = found.advantage(PRIMARY, PAPERS, BEYOND_LENGTH)
    if advantage is not None and not math.isnan(advantage.mean):
        sentences.append(
            f"The correlation of {_label(PRIMARY)} is larger than that of the paper's {_label(PAPERS)} by "
            f"{_interval(advantage, 2)}."
        )
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
            draw_scatter(points, (_label(name), "change of HR@5 beyond length"), out / f"{file}.svg")
            page += [f"![{_label(name)} and gain]({file}.svg)", ""]
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
                    ", ".join(f"{_label(measure)} ({times})" for measure, times in chosen.most_common()),
                    f"{rule.correlation:.2f}",
                    f"{rule.error:.3f}",
                    f"{rule.error_of_mean:.3f}",
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
        "balanced accuracy",
    ]
    return [
        "For each teacher a rule is made of its strangers alone, the teachers that have neither its reader "
        "nor its signals: the measure that orders them best, and a straight line. It says *worth it* where "
        "what it predicts is above the bound. *Balanced accuracy*, over teachers of which that is decided: "
        "0.5 is chance.",
        "",
        *_table(heads, rows),
        "",
        "The check's own verdict of the teachers with a reader, as it was when the study was run, and as it "
        "has been since, which also looks at the order for an unrelated question; of the second reader's "
        "teachers, which had no part in that change, by themselves:",
        "",
        *_table(["verdict", "worth it", "undecided", "not worth it"], _verdict_rows(found)),
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
            f"length on average, where the mean of those others errs by {rule.error_of_mean:.3f}."
        )
    return sentences


# ---- stopping ----


def _stopping(results: Sequence[Result], out: Path) -> tuple[list[str], list[str]]:
    rows, sentences = [], []
    for patience in stopping.PATIENCES:
        runs = stopping.replay(results, patience)
        if not runs:
            return [], []
        stopped = [run for run in runs if run.saves_steps]
        late = [run.late for run in stopped if run.late is not None]
        num_lower = sum(run.ended_lower for run in runs)
        num_last = sum(run.stopped_at == run.num_steps for run in runs)
        rows.append(
            [
                str(patience),
                str(len(runs)),
                str(num_lower),
                str(len(stopped)),
                str(sum(run.is_false for run in stopped)),
                str(num_last),
                str(sum(run.is_missed for run in runs)),
                f"{np.mean(late):.1f}" if late else "-",
                f"{np.mean([run.saved for run in stopped]):.0%}" if stopped else "-",
            ]
        )
        sentences.append(
            f"Replayed on {len(runs)} runs, of which {num_lower} end surely below their start, the rule with "
            f"patience {patience} stops {len(stopped)} before their end, {rows[-1][4]} of them such as end "
            f"no lower than they started, and lets {rows[-1][6]} go on that end surely lower."
        )
    heads = [
        "patience",
        "runs",
        "end surely lower",
        "stopped before the end",
        "of them ended no lower",
        "stopped by the last validation",
        "end surely lower, not stopped",
        "steps from the first lower validation to the stop",
        "share of steps saved",
    ]
    page = ["# The stopping rule, replayed", "", _OF_ALL_PARTS, ""]
    page += [
        "Every run of the study is validated every so many steps; the rule that a run has (a significant "
        "decline of the Hit Rate against the start, question by question) is asked after each what it would "
        "have done. *Surely lower*: of the questions that are measured on, by the interval of the change.",
        "",
        *_table(heads, rows),
    ]
    stopped_runs = [run for run in stopping.replay(results, 1) if run.stopped_at is not None]
    if stopped_runs:
        page += ["", "The runs that patience 1 stops:", ""]
        page += _table(
            ["run", "stopped at", "change on validation at the end", "on the questions measured on"],
            [[f"`{r.cell}`", str(r.stopped_at), f"{r.end:+.3f}", _interval(r.test)] for r in stopped_runs],
        )
    return sentences, page


_OF_ALL_PARTS = (
    "`python -m experiments.study`; [results.parquet](results.parquet), rows `validation/hr_at_5@STEP` of "
    "all parts that train."
)


# ---- teachers ----


def _teachers(results: Sequence[Result], out: Path) -> tuple[list[str], list[str]]:
    found = of_part(results, teacher_table.NAME)
    if not found:
        return [], []
    shown = (
        "auc",
        "auc_at_equal_length",
        "fixed_preference",
        "length_tau",
        "gold_above_longest",
        "indicator1/spearman_p90",
    )
    found = sorted(found, key=lambda of: (of.cell["reader"], -_value(of, PRIMARY)))
    rows = [
        [
            of.cell["reader"],
            of.cell["signal"],
            *(_interval(of.measures[name], 2) if name in of.measures else "-" for name in shown),
            f"{of.measures['seconds'].mean:.2f}",
        ]
        for of in found
    ]
    best = max(found, key=lambda of: _value(of, PRIMARY))
    sentences = []
    if PRIMARY in best.measures:
        sentence = (
            f"The best signal at equal length is {best.cell['signal']} of reader {best.cell['reader']}, "
            f"{_interval(best.measures[PRIMARY], 2)}"
        )
        paper = [of for of in found if of.cell["signal"] == "answer" and of.cell["reader"] == INITIAL]
        if paper and PRIMARY in paper[0].measures:
            of_paper = _interval(paper[0].measures[PRIMARY], 2)
            sentence += f"; the paper's (the answer's rows of the initial reader) has {of_paper}"
        sentences = [f"{sentence}."]
    heads = ["reader", "signal", *(_label(name) for name in shown), "seconds a question"]
    page = ["# Teachers", "", _command(teacher_table.NAME), "", _OTHER_READERS, "", *_table(heads, rows)]
    return sentences, page


def _value(of: Result, measure: str) -> float:
    """Of a measure; less than all where it is undefined."""
    return of.measures[measure].mean if measure in of.measures else -math.inf


_OTHER_READERS = (
    "Any decoder-only reader of the hub, or a folder: `python -m experiments.study teachers --only "
    "'teachers/reader=initial/*' --out report/teachers reader.name=NAME`; *initial* is then that reader. "
    "Beside the initial one: `--second NAME`, which is *second* then. "
    "Gold above the longest: CoRe's test, whether the best positive passage scores above the longest "
    "negative one that is at least twice as long. Seconds: of all signals together, on the machine that read."
)


# ---- collapse ----


def _collapse(results: Sequence[Result], out: Path) -> tuple[list[str], list[str]]:
    found = of_part(results, collapse.NAME)
    if not found:
        return [], []
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in found:
        groups.setdefault(tuple(value for _, value in result.cell.factors), []).append(result)
    heads = ["reader", "shown", "candidates", "rate", "length", "seeds", "gain", "beyond length", "words"]
    rows, lines = [], []
    for factors, of_seeds in groups.items():
        rows.append(
            [
                *factors,
                str(len(of_seeds)),
                _interval(_over_seeds(of_seeds, GAIN)),
                _interval(_over_seeds(of_seeds, BEYOND_LENGTH)),
                f"{np.mean([of.measures['words'].mean for of in of_seeds]):.0f}",
            ]
        )
        curves = [validations_of(of) for of in of_seeds]
        lines.append(
            (
                " ".join(factors),
                list(curves[0]),
                [[float(hits.mean()) for hits in of.values()] for of in curves],
            )
        )
    draw_curves(lines[:9], "HR@5, validation", out / "collapse.svg")
    gains = {factors: _over_seeds(of_seeds, GAIN) for factors, of_seeds in groups.items()}
    worst, best = min(gains, key=lambda of: gains[of].mean), max(gains, key=lambda of: gains[of].mean)
    sentence = (
        f"The answer's rows change HR@5 by {_interval(gains[worst])} at worst ({' '.join(worst)}), by "
        f"{_interval(gains[best])} at best ({' '.join(best)})."
    )
    num_seeds = len({result.cell.seed for result in found})
    run = (
        f"{len(found)} of {len(collapse.cells(range(num_seeds)))} cells have been run; the others are "
        "combinations of readers, contexts and candidates that are not in the table."
    )
    page = ["# When the paper's signal ruins a retriever", "", _command(collapse.NAME), "", run, ""]
    return [sentence], [*page, "![Validations](collapse.svg)", "", *_table(heads, rows)]


# ---- the paper's settings ----


def _tables(results: Sequence[Result], out: Path) -> tuple[list[str], list[str]]:
    found = of_part(results, tables.NAME)
    if not found:
        return [], []
    groups: dict[str, list[Result]] = {}
    for result in found:
        groups.setdefault(result.cell["setting"], []).append(result)
    shown = ("hr_at_5", "em", "f1")
    rows = [
        [setting, str(len(groups[setting])), *(_of_seeds(groups[setting], name) for name in shown)]
        for setting in tables.SETTINGS
        if setting in groups
    ]
    page = ["# The paper's settings at embedded scale", "", _command(tables.NAME), ""]
    page += _table(["setting", "seeds", "HR@5", "EM", "F1"], rows)
    means = {
        setting: np.mean([of.measures["hr_at_5"].mean for of in of_seeds])
        for setting, of_seeds in groups.items()
    }
    ordered = " < ".join(f"{name} ({means[name]:.3f})" for name in sorted(means, key=lambda of: means[of]))
    return [f"HR@5 of the paper's settings: {ordered}."], page


def _of_seeds(results: Sequence[Result], name: str) -> str:
    values = [of.measures[name].mean for of in results if name in of.measures]
    return ", ".join(f"{value:.3f}" for value in values) or "-"


# ---- text ----


def _over_seeds(results: Sequence[Result], name: str) -> Estimate:
    return crossed_estimate(np.array([result.questions[name] for result in results]))


def _label(measure: str) -> str:
    return LABELS.get(measure, measure)


def _with_n(of: Estimate | None) -> str:
    return "-" if of is None or math.isnan(of.mean) else f"{_interval(of, 2)} ({of.n})"


def _command(part: str) -> str:
    return f"`python -m experiments.study {part}`; [results.parquet](results.parquet), rows of part `{part}`."


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _mean(of: Estimate | None) -> str:
    return "-" if of is None or math.isnan(of.mean) else f"{of.mean:.2f}"


def _interval(of: Estimate, decimals: int = 3) -> str:
    if math.isnan(of.mean):
        return "-"
    if math.isnan(of.low):
        return f"{of.mean:.{decimals}f}"
    sign = "+" if decimals == 3 else ""
    return f"{of.mean:{sign}.{decimals}f} [{of.low:.{decimals}f}, {of.high:.{decimals}f}]"


def _file(name: str) -> str:
    return name.replace("/", "-")

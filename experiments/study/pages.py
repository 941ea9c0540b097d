"""The pages of the study, written from the table of all results alone."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from experiments.config import ConfigError
from experiments.study import collapse, prediction, stopping, tables, teacher_table
from experiments.study.analysis import OUTCOMES, Predictions, Rule
from experiments.study.before import VERDICT
from experiments.study.cells import Result, of_part
from experiments.study.figures import draw_bars, draw_curves, draw_scatter
from experiments.study.prediction import BEYOND_LENGTH, GAIN
from experiments.study.stopping import validations_of
from lightning_modules.metrics.bootstrap import hierarchical_bootstrap_interval
from lightning_modules.metrics.estimates import Estimate
from lightning_modules.metrics.measures import measure_labels

ADVICE = "advice.md"
"""Written by hand; each cell that it cites, `(cell: NAME)`, must be in the table."""
_HOW = "how.md"
"""Written by hand: what was run, and what was cut down for the cost."""

LABELS = {
    "auc": "teacher AUC",
    "auc_at_equal_length": "AUC at equal length",
    "auc_over_retriever": "AUC less the retriever's own",
    "mrr": "MRR",
    "mass_on_answers": "mass on answers",
    "entropy": "entropy of the target",
    "length_tau": "Kendall's tau with length",
    "length_tau_size": "the same, without its sign",
    "gold_above_longest": "gold above the longest",
    "fixed_preference": "preference whatever is asked",
    VERDICT: "the check's verdict",
    **measure_labels(),
}
"""Of what is measured before."""
CHECK_MEASURES = (
    "auc",
    "auc_at_equal_length",
    "auc_over_retriever",
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
                f"{path} cites {cited}, which is no cell of the table; run it, or mend the page"
            )


# ---- prediction ----


FEWEST_TEACHERS = 8
"""Of fewer no correlation is shown, nor a rule."""


def _prediction(results: Sequence[Result], out: Path) -> tuple[list[str], list[str]]:
    found = Predictions(results)
    if not found.teachers:
        return [], []
    order = sorted(found.teachers, key=lambda of: -found.estimate(of.name, GAIN).mean)
    page = [
        "# What the check says beforehand, and what became of the retriever",
        "",
        _command(prediction.NAME),
    ]
    page += [
        "",
        f"{len(order)} teachers, {found.num_seeds} seeds each; changes of the Hit Rate@5 on test questions. "
        "*Worth it*: beyond length at least half of what true labels bring.",
        "",
    ]
    shown = (
        "auc",
        "auc_at_equal_length",
        "length_tau",
        "fixed_preference",
        "indicator1/spearman_p90",
        VERDICT,
    )
    rows = []
    for teacher in order:
        before = found.before(teacher.name)
        rows.append(
            [
                teacher.name,
                teacher.family,
                *(_mean(before.get(name)) for name in shown),
                _interval(found.estimate(teacher.name, GAIN)),
                _interval(found.estimate(teacher.name, BEYOND_LENGTH)),
                "yes" if found.is_worth_it[teacher.name] else "no",
            ]
        )
    heads = ["teacher", "family", *(LABELS[name] for name in shown), "gain", "beyond length", "worth it"]
    page += _table(heads, rows)
    sentences = [_of_gains(found)]
    if len(order) < FEWEST_TEACHERS:
        too_few = (
            f"{len(order)} teachers have taught with every seed; what predicts their gains, and whether a "
            f"rule for the verdict holds for others, is not said of fewer than {FEWEST_TEACHERS}."
        )
        return [*sentences, too_few], [*page, "", too_few]
    for outcome, words in OUTCOMES.items():
        correlations = found.correlations(outcome)
        page += ["", f"## Which measure orders teachers by their {words}?", ""]
        page += [f"![Correlations with the {words}](correlations-{_file(outcome)}.svg)", ""]
        page += _correlation_table(correlations, found.correlations(outcome, with_controls=False))
        draw_bars(
            [(LABELS.get(name, name), of) for name, of in correlations.items() if not math.isnan(of.mean)],
            f"Spearman's correlation with the {words}",
            out / f"correlations-{_file(outcome)}.svg",
        )
        sentences.append(_of_correlations(correlations, words) + _of_advantage(found, outcome))
    page += ["", *_scatters(found, out)]
    page += ["", "## A rule for the verdict", ""]
    rules, about_rules = _rules(found)
    page += rules
    return [*sentences, *about_rules, "", "![AUC at equal length and gain](gain-by-auc.svg)"], page


def _of_gains(found: Predictions) -> str:
    named = {of.name: found.estimate(of.name, GAIN) for of in found.teachers}
    with_readers = [name for name in named if not prediction.is_control(name)]
    if not with_readers:
        return "Controls alone have taught so far."
    best = max(with_readers, key=lambda name: named[name].mean)
    worst = min(named, key=lambda name: named[name].mean)
    start = np.mean([np.mean(result.questions["start/hr_at_5"]) for result in found.results[best]])
    controls = ", ".join(
        f"{name} {_interval(named[name])}" for name in ("labels", "length", "uniform") if name in named
    )
    return (
        f"From the same start (HR@5 {start:.3f}) and the same candidates, the best teacher with a reader "
        f"({best}) changes HR@5 by {_interval(named[best])}, the worst ({worst}) by "
        f"{_interval(named[worst])}; controls: {controls}."
    )


def _of_correlations(correlations: dict[str, Estimate], words: str) -> str:
    known = {name: of for name, of in correlations.items() if not math.isnan(of.mean)}
    best = ", ".join(f"{LABELS.get(name, name)} {_interval(of, 2)}" for name, of in list(known.items())[:3])
    paper = known.get("indicator1/spearman_p90")
    of_paper = "" if paper is None else f"; the paper's Indicator 1 (Spearman p90) {_interval(paper, 2)}"
    return f"With the {words} correlate over teachers (Spearman): {best}{of_paper}."


def _of_advantage(found: Predictions, outcome: str) -> str:
    advantage = found.advantage("auc_at_equal_length", "indicator1/spearman_p90", outcome)
    if advantage is None or math.isnan(advantage.mean):
        return ""
    return (
        " The correlation of AUC at equal length is larger in size than that of Indicator 1 by "
        f"{_interval(advantage, 2)} (over the {advantage.n} teachers that have both)."
    )


def _correlation_table(all_teachers: dict[str, Estimate], with_reader: dict[str, Estimate]) -> list[str]:
    rows = [
        [LABELS.get(name, name), _interval(of, 2), str(of.n), _interval(with_reader[name], 2)]
        for name, of in all_teachers.items()
        if not math.isnan(of.mean)
    ]
    return _table(["measured before", "Spearman", "teachers", "without controls"], rows)


def _scatters(found: Predictions, out: Path) -> list[str]:
    page = []
    for name, file in (
        ("auc_at_equal_length", "gain-by-auc"),
        ("indicator1/spearman_p90", "gain-by-indicator1"),
    ):
        points = [
            (of.family, found.before(of.name)[name], found.estimate(of.name, GAIN))
            for of in found.teachers
            if name in found.before(of.name) and not math.isnan(found.before(of.name)[name].mean)
        ]
        if points:
            draw_scatter(points, (LABELS[name], "change of HR@5"), out / f"{file}.svg")
            page += [f"![{LABELS[name]} and gain]({file}.svg)", ""]
    return page


def _rules(found: Predictions) -> tuple[list[str], list[str]]:
    """The page's section, and sentences."""
    named: dict[str, Rule | None] = {
        "one measure of the check": found.rule(CHECK_MEASURES),
        "AUC at equal length alone": found.rule(["auc_at_equal_length"]),
        "one part of the paper's indicators": found.rule(INDICATORS),
    }
    rows = [
        [
            name,
            ", ".join(f"{measure} (without {of})" for of, measure in rule.left_out.chosen.items()),
            f"{rule.correlation:.2f}",
            f"{rule.error:.3f}",
            f"{rule.error_of_mean:.3f}",
            f"{rule.accuracy:.2f}",
        ]
        for name, rule in named.items()
        if rule is not None
    ]
    if not rows:
        return ["Too few families of teachers have taught with every seed."], []
    page = [
        "Made without a family of teachers and judged on it, for each family in turn; controls take no part. "
        "It predicts the gain beyond length by a straight line, and says *worth it* where that is at least "
        "half of what labels bring. *Balanced accuracy*: 0.5 is chance.",
        "",
        *_table(
            [
                "goes by",
                "chosen without each family",
                "Spearman of predicted and true",
                "mean error",
                "error of the others' mean",
                "balanced accuracy",
            ],
            rows,
        ),
        "",
        "The check's own verdict, as it is:",
        "",
    ]
    verdicts = found.verdicts()
    counts = [
        [
            words,
            *(
                str(sum(v == value and worth is is_worth for v, worth in verdicts.values()))
                for is_worth in (True, False)
            ),
        ]
        for words, value in (("go", 1.0), ("unsure", 0.0), ("no-go", -1.0))
    ]
    page += _table(["verdict", "worth it", "not worth it"], counts)
    by_word = {row[0]: row for row in counts}
    sentences = [
        f"Of teachers that the check says go to, {by_word['go'][1]} were worth it and {by_word['go'][2]} "
        f"were not; of those it says no-go to, {by_word['no-go'][1]} were and {by_word['no-go'][2]} were not."
    ]
    first = next((rule for rule in named.values() if rule is not None), None)
    if first is not None:
        sentences.append(
            f"A rule that goes by one measure of the check, made without the family of teachers that it is "
            f"judged on, errs by {first.error:.3f} HR@5 on average, where the other families' mean errs by "
            f"{first.error_of_mean:.3f}; its balanced accuracy is {first.accuracy:.2f}."
        )
    return page, sentences


# ---- stopping ----


def _stopping(results: Sequence[Result], out: Path) -> tuple[list[str], list[str]]:
    rows, sentences = [], []
    for patience in stopping.PATIENCES:
        runs = stopping.replay(results, patience)
        if not runs:
            return [], []
        stopped = [run for run in runs if run.stopped_at is not None]
        ended_lower = [run for run in runs if run.end < 0 and run.test < 0]
        late = [run.late for run in stopped if run.late is not None]
        false = sum(run.is_false for run in stopped)
        rows.append(
            [
                str(patience),
                str(len(runs)),
                str(len(stopped)),
                str(false),
                str(sum(run.is_missed for run in runs)),
                f"{np.mean(late):.1f}" if late else "-",
                f"{np.mean([run.saved for run in stopped]):.0%}" if stopped else "-",
            ]
        )
        sentences.append(
            f"Replayed on {len(runs)} runs, the rule with patience {patience} stops {len(stopped)}, of "
            f"which {false} ended no lower than they started; {len(ended_lower)} runs ended lower on "
            f"validation and on test questions, of which it lets {rows[-1][4]} go on."
        )
    page = ["# The stopping rule, replayed", "", _OF_ALL_PARTS, ""]
    page += [
        "Every run of the study is validated every so many steps; the rule that a run has (a significant "
        "decline of the Hit Rate against the start, question by question) is asked after each what it would "
        "have done.",
        "",
        *_table(
            [
                "patience",
                "runs",
                "stopped",
                "of them ended no lower",
                "ended lower, not stopped",
                "steps from the first lower validation to the stop",
                "share of steps saved",
            ],
            rows,
        ),
    ]
    stopped_runs = [run for run in stopping.replay(results, 1) if run.stopped_at is not None]
    if stopped_runs:
        page += ["", "The runs that patience 1 stops:", ""]
        page += _table(
            ["run", "stopped at", "change on validation at the end", "on test"],
            [[f"`{r.cell}`", str(r.stopped_at), f"{r.end:+.3f}", f"{r.test:+.3f}"] for r in stopped_runs],
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
    found = sorted(found, key=lambda of: (of.cell["reader"], -of.measures[shown[1]].mean))
    rows = [
        [
            of.cell["reader"],
            of.cell["signal"],
            *(_interval(of.measures[name], 2) for name in shown),
            f"{of.measures['seconds'].mean:.2f}",
        ]
        for of in found
    ]
    best = max(found, key=lambda of: of.measures["auc_at_equal_length"].mean)
    paper = [of for of in found if of.cell["signal"] == "answer" and of.cell["reader"] == "initial"]
    sentence = (
        f"The best signal at equal length is {best.cell['signal']} of reader {best.cell['reader']}, "
        f"{_interval(best.measures['auc_at_equal_length'], 2)}"
    )
    if paper:
        of_paper = _interval(paper[0].measures["auc_at_equal_length"], 2)
        sentence += f"; the paper's (the answer's rows of the initial reader) has {of_paper}"
    heads = ["reader", "signal", *(LABELS[name] for name in shown), "seconds a question"]
    page = ["# Teachers", "", _command(teacher_table.NAME), "", _OTHER_READERS, "", *_table(heads, rows)]
    return [f"{sentence}."], page


_OTHER_READERS = (
    "Any decoder-only reader of the hub, or a folder: `python -m experiments.study teachers --only "
    "'teachers/reader=initial/*' --out report/teachers reader.name=NAME`; *initial* is then that reader. "
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
    page = ["# When the paper's signal ruins a retriever", "", _command(collapse.NAME), ""]
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
    of_seeds = [np.array(result.questions[name]) for result in results]
    low, high = hierarchical_bootstrap_interval(of_seeds, num_samples=1000)
    return Estimate(float(np.mean([of.mean() for of in of_seeds])), low, high, len(of_seeds))


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

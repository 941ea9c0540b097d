"""Reports of real toy runs, their numbers against slow independent computation."""

import dataclasses
import json
import random
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from datamodules.sealed_files import read_json, read_with_checksum, with_checksum
from experiments import report, run
from experiments.command_line import USER_ERROR
from experiments.config import ConfigError, load_config, read_config, save_config
from experiments.runs import create_run
from experiments.show import figures
from experiments.show.document import Picture
from experiments.show.figures import hit_rate_curve
from experiments.show.report_rows import PooledEstimate, changed_settings, paired_differences, sort_runs
from experiments.show.report_runs import Run, collect_runs, paper_value
from experiments.show.report_tables import difference_tables, make_run_table, make_tables, setting_label
from experiments.show.report_text import describe_changes
from tests.toy_files import as_overrides, toy_settings

SPEARMAN = "indicator1/spearman_p90"


@pytest.fixture(scope="module")
def toy_runs(tmp_path_factory) -> Path:
    """A checkpoint measured twice, off-the-shelf with two seeds, and off-the-shelf at the paper's scale."""
    settings = toy_settings(tmp_path_factory.mktemp("toy"))
    for experiment, changes in (
        ("checkpoint_vital", {"trainer.max_steps": 0}),
        ("checkpoint_vital", {"trainer.max_steps": 0}),
        ("offshelf_vital", {}),
        ("offshelf_vital", {"seed": 1}),
        ("offshelf_nq", {}),
    ):
        assert run.main(["--exp", experiment, *as_overrides({**settings, **changes})]) == 0
    runs = Path(str(settings["runs"]))
    for config in runs.glob("*/*/config.yaml"):
        pretend(config, PUBLISHED if "_nq" in config.parent.parent.name else {})
    return runs


PUBLISHED = {"train": "nq-train.qa.csv", "validation": "nq-dev.qa.csv", "test": "nq-test.qa.csv"}


def pretend(config: Path, files: dict[str, str]) -> None:
    """As if the toy questions were those of a published set; without any, of Vital QA."""
    text = read_with_checksum(config)
    for split in ("train", "validation", "test", "passages"):
        text = re.sub(
            rf"^  {split}: .*$", f"  {split}: {files.get(split, 'vital')}", text, flags=re.MULTILINE
        )
    config.write_text(with_checksum(text))


@pytest.fixture
def runs(toy_runs, tmp_path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(toy_runs, tmp_path / "runs"))


@pytest.fixture(scope="module")
def made(toy_runs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "report"
    assert report.main([str(toy_runs), "--out", str(out)]) == 0
    return out


def entries_of(*places: Path) -> dict[tuple[str, str, str], list]:
    found: dict[tuple[str, str, str], list] = {}
    for entry in sort_runs(collect_runs(places)).entries:
        found.setdefault((entry.scale, entry.dataset, entry.setting), []).append(entry)
    return found


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def tables_of(text: str, scale: str) -> dict[str, dict[str, list[str]]]:
    """Title -> setting -> cells, of the Markdown tables below a scale's heading."""
    section = re.split(r"^## ", text.split(f"\n## {scale}")[1], flags=re.MULTILINE)[0]
    tables: dict[str, dict[str, list[str]]] = {}
    title = ""
    for line in section.splitlines():
        if match := re.fullmatch(r"\*\*(.*)\*\*", line):
            title = match.group(1).split(":")[0]
        elif line.startswith("| ") and not line.startswith(("| ---", "| data")):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            tables.setdefault(title, {})[cells[1].split("<br>")[0]] = cells
    return tables


# ---- numbers ----


def test_seeds_are_pooled(toy_runs):
    [entry] = entries_of(toy_runs)["embedded", "vital", "offshelf"]
    files = sorted(toy_runs.glob("offshelf_vital/*/predictions.jsonl"))
    assert [run.config.seed for run in entry.runs] == [0, 1]
    records = [record for file in files for record in lines(file)]
    values = [record["metrics"][SPEARMAN] for record in records]
    defined = np.array([value for value in values if value is not None])
    found = entry.estimates[SPEARMAN]
    assert found.n == len(defined) < len(values), "a question whose correlation is undefined"
    assert found.mean == pytest.approx(defined.mean())
    assert found.std == pytest.approx(defined.std(ddof=1))
    hits = [any(record["holds_answer"][:5]) for record in records]
    assert entry.estimates["hr_at_5"].mean == pytest.approx(np.mean(hits))
    assert entry.estimates["f1"].mean == pytest.approx(np.mean([record["f1"] for record in records]))


def test_intervals_of_several_seeds_draw_seeds_and_once_for_all_of_them_questions(toy_runs):
    """Against loops over the same quantity with random numbers of another kind."""
    [entry] = entries_of(toy_runs)["embedded", "vital", "offshelf"]
    name = "indicator1/attention_p90"
    of_seeds = [one.after[name] for one in entry.runs]
    questions = sorted({question for values in of_seeds for question in values})
    chance, means = random.Random(5), []
    for _ in range(6000):
        seeds = chance.choices(of_seeds, k=len(of_seeds))
        asked = chance.choices(questions, k=len(questions))
        drawn = [values[question] for values in seeds for question in asked if question in values]
        if drawn:
            means.append(sum(drawn) / len(drawn))
    low, high = np.quantile(means, [0.025, 0.975])
    found = entry.estimates[name]
    width = high - low
    assert found.low == pytest.approx(low, abs=0.1 * width)
    assert found.high == pytest.approx(high, abs=0.1 * width)


def test_changes_are_of_the_same_questions(toy_runs):
    [entry] = entries_of(toy_runs)["embedded", "vital", "offshelf"]
    differences = []
    for folder in toy_runs.glob("offshelf_vital/*"):
        before, after = (
            {r["id"]: r["metrics"]["indicator2/attention_p90"] for r in lines(folder / name)}
            for name in ("predictions_start.jsonl", "predictions.jsonl")
        )
        differences += [after[key] - before[key] for key in after]
    assert entry.changes["indicator2/attention_p90"].mean == pytest.approx(np.mean(differences))
    assert any(differences)
    [checkpoint] = entries_of(toy_runs)["embedded", "vital", "checkpoint"]
    assert not checkpoint.changes, "nothing is trained"


def test_the_curve_is_that_of_the_validations(toy_runs):
    [entry] = entries_of(toy_runs)["embedded", "vital", "offshelf"]
    curve = hit_rate_curve(entry)
    assert list(curve) == [0, 2, 4]
    files = sorted(toy_runs.glob("offshelf_vital/*/validations.jsonl"))
    expected = [line["metrics"]["validation/hr_at_5"] for line in (lines(file)[-1] for file in files)]
    assert sorted(curve[4]) == sorted(expected)


def test_an_analysis_goes_first(runs):
    [folder] = runs.glob("offshelf_nq/*")
    (folder / "analysis").mkdir()
    for name, value in (("instances", 0.5), ("instances-start", 0.125)):
        records = [{"id": f"q{i}", "metrics": {SPEARMAN: value, "teacher/auc": None}} for i in range(3)]
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / "analysis" / f"{name}.jsonl").write_text(text)
    [entry] = entries_of(folder)["paper", "nq", "offshelf"]
    assert (entry.estimates[SPEARMAN].mean, entry.estimates[SPEARMAN].n) == (0.5, 3)
    assert entry.changes[SPEARMAN].mean == 0.375
    assert entry.changes[SPEARMAN].direction == 1
    assert entry.estimates["hr_at_5"].n == 6, "not in the analysis"


def test_mean_attention_that_decreases_as_passages_grow_is_no_decline(toy_runs):
    """Longer passages, more of whose attention goes to the tokens that matter: the report looks at lift."""
    [entry] = entries_of(toy_runs)["embedded", "vital", "offshelf"]
    changes = {
        "hr_at_5": PooledEstimate(0.2, 0.1, 0.1, 0.3, 12),
        "indicator1/attention_p90": PooledEstimate(-0.01, 0.01, -0.02, -0.005, 12),
        "indicator1/lift_p90": PooledEstimate(0.4, 0.1, 0.3, 0.5, 12),
    }
    changed = dataclasses.replace(entry, changes=changes)
    [said] = describe_changes([changed])
    assert "Hit Rate@5 improves significantly (+0.200, 95% interval +0.100 to +0.300)." in said
    assert (
        "Significantly improved as well: Indicator 1 lift p90 (+0.400, 95% interval +0.300 to +0.500)."
        in said
    )
    assert "decreased" not in said
    assert "attention" not in said
    [table] = [t for t in make_tables([entry, changed]) if t.title.startswith("Changes")]
    assert [head for head in table.columns if "Indicator" in head] == [
        f"Indicator {number} {part} p90" for number in (1, 2) for part in ("lift", "Spearman")
    ]
    assert "+0.400\n[0.300, 0.500]\nn = 12" in table.rows[1]


@pytest.mark.parametrize(
    ("hit_rate", "lift", "expected"),
    [
        (0.2, -0.4, "Significantly decreased, unlike Hit Rate@5: Indicator 1 lift p90 (-0.400"),
        (-0.2, -0.4, "Significantly decreased as well: Indicator 1 lift p90 (-0.400"),
        (0.0, 0.4, "Significantly improved: Indicator 1 lift p90 (+0.400"),
        (0.2, 0.0, "No significant change: Indicator 1 lift p90."),
    ],
)
def test_an_indicator_is_set_beside_the_hit_rate(toy_runs, hit_rate, lift, expected):
    [entry] = entries_of(toy_runs)["embedded", "vital", "offshelf"]
    changes = {
        name: PooledEstimate(mean, 0.1, mean - 0.1, mean + 0.1, 12)
        for name, mean in (("hr_at_5", hit_rate), ("indicator1/lift_p90", lift))
    }
    [said] = describe_changes([dataclasses.replace(entry, changes=changes)])
    assert expected in said
    verb = "improves" if hit_rate > 0 else "decreases" if hit_rate < 0 else "does not change"
    assert f"Hit Rate@5 {verb} significantly" in said


@pytest.mark.parametrize(
    ("asked", "read", "said"),
    [
        (
            24,
            24,
            " 12 questions are few: each is 0.083 of the mean, and others may say otherwise, so give the",
        ),
        (400, 24, " Of the indicators: 12 questions are few: each is 0.083 of the mean"),
        (400, 100, None),
    ],
)
def test_few_questions_are_said_to_be_few(toy_runs, asked, read, said):
    """Of two seeds, each of which asks half of n."""
    [entry] = entries_of(toy_runs)["embedded", "vital", "offshelf"]
    changes = {
        name: PooledEstimate(0.2, 0.1, 0.1, 0.3, n)
        for name, n in (("hr_at_5", asked), ("indicator1/lift_p90", read))
    }
    [described] = describe_changes([dataclasses.replace(entry, changes=changes)])
    assert described.count("few") == (said is not None)
    assert said is None or said in described


def test_every_run_has_lift(toy_runs):
    [entry] = entries_of(toy_runs)["embedded", "vital", "offshelf"]
    for number in (1, 2):
        assert entry.estimates[f"indicator{number}/lift_p95"].n > 0
        assert f"indicator{number}/lift_p90" in entry.changes


# ---- differences between rows ----


def test_rows_are_compared_seed_by_seed_in_the_order_given(runs):
    """Of two settings that differ in their rate; both have a seed 0, and the second one has no other."""
    first, second = sorted(runs.glob("offshelf_vital/*"), key=lambda path: path.name[-1])
    config = second / "config.yaml"
    text = read_with_checksum(config).replace("retriever_lr: 0.001", "retriever_lr: 0.5")
    config.write_text(re.sub(r"^seed: 1$", "seed: 0", text, flags=re.MULTILINE))
    a, b = ({r["id"]: r["f1"] for r in lines(folder / "predictions.jsonl")} for folder in (second, first))
    table = make_tables(sort_runs(collect_runs([second, first])).entries)[-1]
    assert table.title == "Paired differences"
    [row] = table.rows
    settings = "data.max_validation=null\ntraining.retriever_lr"
    assert row[1] == f"Off-the-shelf\n{settings}=0.5\nminus Off-the-shelf\n{settings}=0.001"
    cell = row[table.columns.index("F1")].split("\n")
    assert cell[0] == f"{np.mean([a[key] - b[key] for key in a]) + 0.0:+.3f}"
    assert cell[2] == f"n = {len(a)}"
    back = make_tables(sort_runs(collect_runs([first, second])).entries)[-1].rows[0]
    assert back[1].split("\nminus ")[::-1] == row[1].split("\nminus ")


def run_with(path, seed, values=None, overrides=(), experiment="offshelf_vital", **given) -> Run:
    """A finished run whose final test found some values of Hit Rate@5 by question."""
    config = load_config(experiment, [f"seed={seed}", *overrides])
    given = {"summary": {"trained": True}, **given}
    return Run(Path(path), config, "finished", after={"hr_at_5": values or {"q": 1.0}}, **given)


def measured(*runs: Run) -> list:
    return [entry for entry in sort_runs(runs).entries if entry.is_measured]


def seeds_apart(num_seeds: int, mean: float, overrides=(), first_seed: int = 0) -> list[Run]:
    """Of 100 questions, each seed another 0.1 away from the mean."""
    return [
        run_with(
            f"/r/{mean}/{seed}",
            seed,
            {f"q{i}": mean + 0.1 * (seed - first_seed) + 0.01 * (i % 3) for i in range(100)},
            overrides,
        )
        for seed in range(first_seed, first_seed + num_seeds)
    ]


def test_the_seeds_that_both_rows_have_are_compared_and_drawn():
    """A third seed of one row changes nothing: the other row has nothing to compare it with."""
    faster = ["training.retriever_lr=0.5"]
    others = [
        dataclasses.replace(run, after={"hr_at_5": {q: v * 2 for q, v in run.after["hr_at_5"].items()}})
        for run in seeds_apart(2, 0.25, faster)
    ]
    equal, unequal = measured(*seeds_apart(2, 0.5), *others), measured(*seeds_apart(3, 0.5), *others)
    assert [len(entry.runs) for entry in unequal] == [3, 2]
    found = paired_differences(*unequal)["hr_at_5"]
    assert found == paired_differences(*equal)["hr_at_5"]
    assert found.n == 200
    assert found.high - found.low > 0.09, "seeds are drawn: their differences lie 0.1 apart"
    [table] = difference_tables(unequal)
    assert table.rows[0][table.columns.index("seeds")] == "2\nseed 0, 1"


def test_rows_without_a_seed_in_common_are_compared_by_their_means():
    rows = measured(*seeds_apart(2, 0.5), *seeds_apart(2, 0.25, ["training.retriever_lr=0.5"], first_seed=5))
    found = paired_differences(*rows)["hr_at_5"]
    assert (found.mean, found.n) == (pytest.approx(0.25), 100)
    assert found.high - found.low == pytest.approx(0), "over questions alone, and all differ by as much"
    [table] = difference_tables(rows)
    assert table.rows[0][table.columns.index("seeds")] == "none in both\nover questions alone"
    assert "over questions alone leave out other seeds" in table.notes[0]
    one = measured(*seeds_apart(2, 0.5), *seeds_apart(1, 0.25, ["training.retriever_lr=0.5"]))
    [table] = difference_tables(one)
    assert table.rows[0][table.columns.index("seeds")] == "1\nseed 0\nover questions alone"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"data.test": "nq-test.qa.csv"}, {"data.test": "nq-dev.qa.csv"}),
        ({"data.test": "/law/dev/test.jsonl"}, {"data.test": "/med/dev/test.jsonl"}),
        (
            {"data.test": "held_out", "data.train": "/law/dev/all.jsonl"},
            {"data.test": "held_out", "data.train": "/med/dev/all.jsonl"},
        ),
    ],
)
@pytest.mark.parametrize("has_texts", [True, False])
def test_lines_of_other_files_are_no_same_questions(first, second, has_texts):
    """Their ids are line numbers, and the rows' data have the same short name."""

    def row(name, changes):
        overrides = [f"{key}={value}" for key, value in changes.items()]
        texts = {str(i): f"{name} {i}?" for i in range(9)} if has_texts else {}
        return run_with(name, 0, {str(i): 1.0 for i in range(9)}, overrides, questions=texts)

    rows = measured(row("a", first), row("b", second))
    assert rows[0].dataset == rows[1].dataset
    assert paired_differences(*rows) == {}
    assert difference_tables(rows) == []
    again = measured(row("a", first), row("a", {**first, "training.retriever_lr": 0.5}))
    assert paired_differences(*again)["hr_at_5"].n == 9


def test_the_same_questions_of_a_copied_file_are_paired():
    texts = {"1": "who?", "2": "where?"}
    first = run_with("a", 0, dict.fromkeys("123", 1.0), ["data.test=/law/dev/test.jsonl"], questions=texts)
    texts = {"1": "who?", "2": "when?"}
    second = run_with("b", 0, dict.fromkeys("123", 0.0), ["data.test=/copy/dev/test.jsonl"], questions=texts)
    assert paired_differences(*measured(first, second))["hr_at_5"].n == 1
    assert paired_differences(*measured(first, second))["hr_at_5"].mean == 1


def test_the_texts_of_the_questions_are_read(toy_runs):
    [folder] = toy_runs.glob("offshelf_nq/*")
    [found] = collect_runs([folder])
    assert found.questions == {
        record["id"]: record["question"] for record in lines(folder / "predictions.jsonl")
    }


# ---- runs that no checkpoint of which beat the start ----


def test_a_ruined_run_reads_as_ruined(runs):
    """Its best checkpoint is the start, so before and after are the same."""
    [folder] = runs.glob("offshelf_nq/*")
    summary = read_json(folder / "summary.json")
    (folder / "summary.json").write_text(json.dumps({**summary, "best_step": None, "checksums": {}}))
    scores = {0: 0.5, 2: 0.25, 4: 0.125}
    (folder / "validations.jsonl").write_text(
        "".join(
            json.dumps({"step": s, "metrics": {"validation/hr_at_5": v}}) + "\n" for s, v in scores.items()
        )
    )
    [entry] = entries_of(folder)["paper", "nq", "offshelf"]
    [said] = describe_changes([entry])
    assert "No checkpoint beat the start, so the starting weights were kept and tested" in said
    assert "in the last validation the Hit Rate@5 was 0.125 (-0.375)." in said
    table = make_tables([entry])[0]
    assert table.columns[-1] == "validation: start / kept / last"
    assert table.rows[0][-1] == "0.500 / 0.500 / 0.125\nno checkpoint beat the start"


def test_weights_that_no_validation_chose_have_no_validated_value():
    """The last ones, where no validation was on a fresh index: they are not the start."""
    summary = {"trained": True, "best_step": None, "chosen_by": None}
    validations = {0: {"validation/hr_at_5": 0.3}, 8: {"validation/hr_at_5": 0.7}}
    last = [run_with(f"/r/{s}", s, summary=summary, validations=validations) for s in range(2)]
    [entry] = measured(last[0])
    assert (
        make_tables([entry])[0].rows[0][-1] == "0.300 / – / 0.700\nno checkpoint was chosen by a validation"
    )
    assert not describe_changes([dataclasses.replace(entry, changes=entry.estimates)])[0].count(
        "beat the start"
    )
    best = dataclasses.replace(last[1], summary={**summary, "best_step": 8, "chosen_by": {}})
    [entry] = measured(last[0], best)
    said = "no checkpoint was chosen by a validation in 1 of 2 runs"
    assert make_tables([entry])[0].rows[0][-1] == f"0.300 / – / 0.700\n{said}"


# ---- data of one's own ----


def test_rows_of_own_data_are_named_by_their_file(runs, tmp_path):
    [folder] = runs.glob("offshelf_nq/*")
    pretend(folder / "config.yaml", {"test": "/far/away/capitals/qrels/test.tsv"})
    assert report.main([str(folder), "--out", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    own = tables_of(text, "Data of one's own: not comparable with the paper")
    assert own["Table 1"]["Off-the-shelf"][0] == "capitals/qrels/test.tsv"
    label = own["Table 1"]["Off-the-shelf"][1].split("<br>")
    assert label[1:4] == ["data.train=vital", "data.validation=vital", "data.passages=vital"]
    assert label[4:7] == ["data.max_validation=null", "reader reader", "retriever retriever"]
    assert "NQ" not in text.split("## All runs")[0]
    assert "no run here has" not in text


@pytest.mark.parametrize(
    ("changes", "scale", "dataset", "label"),
    [
        ({}, "embedded", "vital", []),
        ({"data.max_train": 320, "data.root": "elsewhere"}, "embedded", "vital", []),
        (
            {"data.train": "/far/my/q.jsonl", "data.passages": "my/c.jsonl"},
            "own",
            "vital",
            ["data.train=my/q.jsonl", "data.passages=my/c.jsonl"],
        ),
        (
            {"data.max_passages": 1200, "data.max_test": 300},
            "embedded",
            "vital",
            ["data.max_test=300", "data.max_passages=1200"],
        ),
        (
            {"data.train": "my/q.jsonl", "data.validation": "held_out", "data.test": "held_out"},
            "embedded",
            "my/q.jsonl (held out)",
            [],
        ),
        ({"data.train": "nq-train.qa.csv", "data.max_train": "null"}, "embedded", "vital", None),
    ],
)
def test_rows_are_named_by_the_data_that_are_not_the_experiments(changes, scale, dataset, label):
    """Wherever a row is named: in every table, figure and sentence."""
    config = load_config("quickstart", [f"{key}={value}" for key, value in changes.items()])
    [entry] = sort_runs([Run(Path("a"), config, "finished")]).entries
    label = ["data.train=nq-train.qa.csv", "data.max_train=null"] if label is None else label
    if "held out" in dataset:
        scale = "own"
    assert (entry.scale, entry.dataset, list(entry.notes)) == (scale, dataset, label)
    assert setting_label(entry, "\n") == "\n".join(["quickstart", *label])


def test_the_rest_that_differs_is_named_once_and_counted():
    changed = ["reader.name=/models/falcon@abc", "data.noun_model=/x/nouns", "trainer.max_steps=7"]
    changed += ["training.num_passages=4", "reader.max_new_tokens=9", "evaluation.hit_rate_ks=[1,2]"]
    runs = [Run(Path("a"), load_config("quickstart", changed), "finished")]
    [entry] = sort_runs(runs).entries
    assert entry.details == (
        "reader falcon",
        "data.noun_model=nouns",
        "reader.max_new_tokens=9",
        "training.num_passages=4",
        "trainer.max_steps=7",
        "and 1 more setting",
    )
    other = load_config("quickstart", [*changed, "reader.name=/other/falcon"])
    first, second = sort_runs([*runs, Run(Path("b"), other, "finished")]).entries
    assert [entry.notes for entry in (first, second)] == [
        ("reader.name=/models/falcon@abc",),
        ("reader.name=/other/falcon",),
    ], "in short they would be the same"
    assert not any("falcon" in detail for detail in first.details), "noted already"


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (["reader.num_examples=0"], [], True),
        (["reader.num_examples=2"], [], False),
        (["reader.template=few_shot", "reader.num_examples=3"], ["reader.template=few_shot"], True),
        (["reader.template=few_shot", "reader.num_examples=0"], ["reader.template=few_shot"], False),
    ],
)
def test_settings_are_compared_by_what_they_come_to(first, second, same):
    """Runs of earlier versions say `reader.num_examples: 0` where later ones leave it to the template."""
    configs = [load_config("quickstart", changes) for changes in (first, [*second, "seed=1"])]
    entries = sort_runs([Run(Path(str(c.seed)), c, "finished") for c in configs]).entries
    assert len(entries) == (1 if same else 2)
    for config in configs if same else ():
        assert "reader.num_examples" not in changed_settings(config)


def test_a_changed_setting_is_shown_as_it_was_asked_for():
    """`step1_vital` shows an example, and the template none, so that 0 is the template's own."""
    config = load_config("step1_vital", ["reader.num_examples=0"])
    assert changed_settings(config) == {"reader.num_examples": "0"}


def test_what_a_run_has_resolved_is_no_change(tmp_path):
    """Runs of earlier versions do not say what they were asked for."""
    made = create_run(load_config("quickstart", [f"runs={tmp_path}", "trainer.max_steps=7"]))
    config = read_config(made.config)
    heads = dataclasses.replace(config.reader, attention_heads="0.1,2.3")
    save_config(dataclasses.replace(config, reader=heads), made.config, "given as a list")

    def shown() -> str:
        return make_run_table(sort_runs(collect_runs([made.path])).statuses).rows[0][-1]

    assert shown() == "trainer.max_steps=7"
    [run] = collect_runs([made.path])
    [entry] = sort_runs([dataclasses.replace(run, status="finished")]).entries
    assert entry.details == ("trainer.max_steps=7",)
    made.asked.unlink()
    assert shown() == "reader.attention_heads=0.1,2.3; trainer.max_steps=7"


# ---- which runs count ----


def test_missing_and_unfinished_runs_are_named(runs):
    unfinished = runs / "step1_vital" / "20260101-000000-seed0"
    shutil.copytree(next(runs.glob("offshelf_vital/*-seed0")), unfinished)
    (unfinished / "summary.json").unlink()
    text = read_with_checksum(unfinished / "config.yaml")
    (unfinished / "config.yaml").write_text(text.replace("name: offshelf_vital", "name: step1_vital"))
    status = {key: entry.status for key, [entry] in entries_of(runs).items()}
    vital = {setting: state for (scale, dataset, setting), state in status.items() if dataset == "vital"}
    assert vital == {
        "checkpoint": "measured",
        "offshelf": "measured",
        "step1": "unfinished",
    }, "what nobody has run is missing from the paper's comparison alone"
    assert status["paper", "nq", "atlas_large"] == "missing"
    assert not any(dataset == "triviaqa" for _, dataset, _ in status)


def test_the_newest_run_of_a_seed_counts(toy_runs):
    found = sort_runs(collect_runs([toy_runs]))
    statuses = {run.path: status for run, status in found.statuses if run.config.name == "checkpoint_vital"}
    older, newer = sorted(statuses, key=lambda path: (path.name[:15], path.name))
    assert statuses[newer] == "counts"
    assert statuses[older] == "does not count: a newer run has its settings and seed"


def test_runs_with_other_settings_are_not_pooled(runs):
    """Of the two seeds one gets another learning rate, and a setting that changes no number."""
    config = next(runs.glob("offshelf_vital/*-seed1")) / "config.yaml"
    text = read_with_checksum(config).replace("log_every_steps: 1", "log_every_steps: 7")
    config.write_text(text)
    assert len(entries_of(runs)["embedded", "vital", "offshelf"]) == 1
    config.write_text(text.replace("retriever_lr: 0.001", "retriever_lr: 0.5"))
    first, second = entries_of(runs)["embedded", "vital", "offshelf"]
    assert first.notes[:-1] == second.notes[:-1] == ("data.max_validation=null",), "not as it is shipped"
    assert {first.notes[-1], second.notes[-1]} == {
        "training.retriever_lr=0.001",
        "training.retriever_lr=0.5",
    }
    assert len(first.runs) == len(second.runs) == 1


def first_step(runs: Path, seed: int, *overrides: str, experiment: str = "step1_vital") -> Path:
    """Folder of a run that others can start from."""
    return create_run(load_config(experiment, [f"runs={runs}", f"seed={seed}", *overrides])).path


def second_step(seed: int, start: Path | str, *overrides: str, path: str | Path = "/r") -> Run:
    start_from = f"init.reader_from={start}"
    return run_with(
        f"{path}/step2_vital/{seed}-{Path(start).name}", seed, None, [start_from, *overrides], "step2_vital"
    )


def test_a_second_step_of_several_seeds_is_one_row(tmp_path):
    """Each from the first step of its own seed, with the same settings."""
    steps = [second_step(seed, first_step(tmp_path, seed, "trainer.progress_bar=false")) for seed in range(3)]
    [entry] = measured(*steps)
    assert [run.config.seed for run in entry.runs] == [0, 1, 2]
    assert entry.notes == ()


def test_second_steps_from_first_steps_with_other_settings_are_other_rows(tmp_path):
    slow, fast = (first_step(tmp_path, 0, f"training.reader_lr={rate}") for rate in (1e-5, 4e-4))
    for other_seed in (0, 1):
        found = sort_runs([second_step(0, slow), second_step(other_seed, fast)])
        rows = [entry for entry in found.entries if entry.is_measured]
        assert [len(entry.runs) for entry in rows] == [1, 1]
        note = "init.reader_from=step1_vital: training.reader_lr"
        assert [entry.notes for entry in rows] == [(f"{note}=1e-05",), (f"{note}=0.0004",)]
        assert [status for _, status in found.statuses] == ["counts", "counts"]


def test_of_first_steps_of_other_experiments_a_row_names_the_experiment(tmp_path):
    starts = [first_step(tmp_path, 0, experiment=name) for name in ("step1_vital", "quickstart")]
    rows = measured(*(second_step(0, start) for start in starts))
    assert [entry.notes for entry in rows] == [
        ("init.reader_from=step1_vital",),
        ("init.reader_from=quickstart",),
    ]


def test_steps_before_the_first_count_too(tmp_path):
    """The first step's own start differs."""
    starts = []
    for rate in (1e-5, 4e-4):
        begun = first_step(tmp_path, 0, f"training.reader_lr={rate}")
        starts.append(first_step(tmp_path, 0, f"init.reader_from={begun}"))
    rows = measured(*(second_step(0, start) for start in starts))
    note = "init.reader_from=step1_vital: init.reader_from=step1_vital: training.reader_lr"
    assert [entry.notes for entry in rows] == [(f"{note}=1e-05",), (f"{note}=0.0004",)]


def test_starts_that_are_gone_are_told_apart_by_their_folders(tmp_path):
    rows = measured(second_step(0, "/a/step1_vital/x"), second_step(1, "/b/step1_vital/x"))
    assert [entry.notes for entry in rows] == [
        ("init.reader_from=/a/step1_vital/x",),
        ("init.reader_from=/b/step1_vital/x",),
    ]
    broken = first_step(tmp_path, 0)
    (broken / "config.yaml").write_text("[")
    [entry] = measured(second_step(0, broken))
    assert len(entry.runs) == 1


def test_runs_that_start_from_each_other_come_to_an_end(tmp_path):
    """Which only folders that were renamed can."""
    first = first_step(tmp_path, 0)
    second = first_step(tmp_path, 1, f"init.reader_from={first}")
    config = load_config("step1_vital", [f"init.reader_from={second}"])
    save_config(config, first / "config.yaml")
    assert len(measured(second_step(0, first), second_step(1, second))) == 2


def test_starts_that_were_moved_with_their_runs_are_found(tmp_path):
    moved = [Path("gone/runs") / first_step(tmp_path, seed).relative_to(tmp_path) for seed in range(2)]
    [entry] = measured(*(second_step(seed, start, path=tmp_path) for seed, start in enumerate(moved)))
    assert len(entry.runs) == 2


def test_a_configuration_that_the_run_has_not_written_is_checked(runs):
    """One that has its checksum is what the run has checked itself, perhaps an earlier version of it."""
    folder = next(runs.glob("offshelf_vital/*-seed1"))
    config = folder / "config.yaml"
    text = read_with_checksum(config).replace("passage_order: rank", "passage_order: nowhere")
    assert "passage_order: nowhere" in text
    config.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml.*nowhere"):
        collect_runs([folder])
    config.write_text(with_checksum(text))
    [run] = collect_runs([folder])
    assert run.config.reader.passage_order == "nowhere"
    config.write_text(with_checksum(text).replace("nowhere", "anywhere"))
    with pytest.raises(ConfigError, match=r"config\.yaml is damaged"):
        collect_runs([folder])


def test_of_many_heads_a_row_names_a_few(runs):
    """All of them where another row's begin alike."""
    config = next(runs.glob("offshelf_vital/*-seed1")) / "config.yaml"
    text = read_with_checksum(config)
    config.write_text(text.replace("attention_heads: null", "attention_heads: 0.0,0.1,0.2,1.0,1.3"))
    notes = {entry.notes[-1] for entry in entries_of(runs)["embedded", "vital", "offshelf"]}
    assert notes == {"reader.attention_heads=null", "reader.attention_heads=0.0,0.1,0.2,... (5)"}
    other = next(runs.glob("offshelf_vital/*-seed0")) / "config.yaml"
    text = read_with_checksum(other).replace("attention_heads: null", "attention_heads: 0.0,0.1,0.2,1.0,1.1")
    other.write_text(text)
    notes = {entry.notes[-1] for entry in entries_of(runs)["embedded", "vital", "offshelf"]}
    assert notes == {f"reader.attention_heads=0.0,0.1,0.2,1.0,1.{last}" for last in (1, 3)}


@pytest.mark.parametrize(("limit", "is_shortened"), [("1000", False), ("999", True), ("null", False)])
def test_the_sample_that_validations_are_shipped_with_is_not_shortened(runs, limit, is_shortened):
    """`data.max_validation` of the paper's experiments."""
    config = next(runs.glob("offshelf_nq/*")) / "config.yaml"
    text = read_with_checksum(config).replace("max_steps: 4", "max_steps: 160000")
    config.write_text(text.replace("max_validation: null", f"max_validation: {limit}"))
    [entry] = entries_of(runs)["paper", "nq", "offshelf"]
    assert ("shortened" in entry.notes) == is_shortened


# ---- what is written ----


def test_paper_numbers_stand_beside(made):
    text = (made / "report.md").read_text()
    paper = tables_of(text, "Paper scale")
    assert paper["Table 1"]["Off-the-shelf"][4::2] == ["27.24", "33.62", "0.030"]
    label = paper["Table 1"]["Off-the-shelf"][1].split("<br>")
    assert label[1:4] == ["shortened", "other data or models", "data.passages=vital"]
    assert label[4:7] == ["data.max_validation=null", "reader reader", "retriever retriever"]
    assert re.fullmatch(r"and \d+ more settings", label[-1])
    later = paper["Tables 2 and 3"]["Off-the-shelf"][1].split("<br>")
    assert later == label[:5], "the rest is said once"
    assert "| NQ | BM25 (k1 0.9, b 0.4) | 0.448 |" in text
    assert paper["Tables 2 and 3"]["Off-the-shelf"][6] == "0.145 ± 0.193"
    assert list(paper["Table 1"]) == ["Off-the-shelf", "BM25"], "what was not run is listed once, below"
    absent = "NQ Initial checkpoint, NQ Step 1, NQ Step 2 (fine-tuned), NQ Atlas-large, NQ Perplexity"
    assert text.count(f"Settings of the paper that no run here has: {absent}") == 1
    assert paper_value("table3", "perplexity", "nq", "attention_p90") is None


def test_where_rows_search_other_passages_bm25_says_whose_it_is():
    def row(name, found, *overrides):
        bm25 = {"bm25/hr_at_5": {"before": found, "after": found}}
        return run_with(name, 0, overrides=overrides, summary={"bm25": bm25})

    def of_bm25(*runs):
        table = make_tables(measured(*runs))[0]
        return [row[1] for row in table.rows if row[1].startswith("BM25")]

    whole, part = row("a", 0.7), row("b", 0.95, "data.max_passages=3000")
    faster = row("c", 0.7, "training.retriever_lr=0.5")
    assert of_bm25(whole, faster) == ["BM25"]
    assert of_bm25(whole, part) == [
        f"BM25\nOff-the-shelf\ndata.max_passages={limit}" for limit in ("null", "3000")
    ]
    others = of_bm25(whole, faster, part)
    assert len(set(others)) == 2
    assert "data.max_passages=3000" in others[1]


def test_scales_are_never_mixed(made, toy_runs):
    text = (made / "report.md").read_text()
    embedded = tables_of(text, "Embedded scale: small models; not comparable with the paper")
    assert {cells[0] for rows in embedded.values() for cells in rows.values()} == {"Vital QA"}
    assert len(embedded["Table 1"]["Off-the-shelf"]) == 7, "no column for the paper"
    assert {c[0] for rows in tables_of(text, "Paper scale").values() for c in rows.values()} == {"NQ"}
    found = entries_of(toy_runs)["embedded", "vital", "offshelf"][0].estimates["hr_at_5"]
    cell = f"{found.mean:.3f}<br>[{found.low:.3f}, {found.high:.3f}]<br>n = {found.n}"
    assert embedded["Table 1"]["Off-the-shelf"][5] == cell


class Page(HTMLParser):
    """Its words, references and ids; tags must close in the order in which they were opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        if tag not in ("meta", "br", "wbr"):
            self.open.append(tag)
        self._note(attrs)

    def handle_startendtag(self, tag, attrs) -> None:
        self._note(attrs)

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.words.append(data)

    def _note(self, attrs) -> None:
        self.references += [value for name, value in attrs if name.split(":")[-1] in ("href", "src")]
        self.ids += [value for name, value in attrs if name == "id"]


def test_the_page_needs_no_other_file(made):
    html, markdown = (made / "report.html").read_text(), (made / "report.md").read_text()
    page = Page()
    page.feed(html)
    assert not page.open
    assert page.references
    assert {reference[1:] for reference in page.references if reference[0] == "#"} <= set(page.ids)
    assert all(reference[0] == "#" for reference in page.references)
    assert all(target[0] == "#" for target in re.findall(r"url\((.)", html))
    assert "@import" not in html
    # the same numbers in both
    numbers = re.compile(r"\d\.\d{2,}")
    outside = re.sub(r"<svg.*?</svg>|<(style|script)>.*?</\1>| title=\".*?\"", "", html, flags=re.DOTALL)
    assert sorted(numbers.findall(outside)) == sorted(numbers.findall(markdown))
    assert len(numbers.findall(markdown)) > 100


def test_columns_explain_themselves_and_tables_sort(made):
    html = (made / "report.html").read_text()
    heads = re.findall(r"<th\b.*?</th>", html)
    assert len(heads) > 80
    assert [head for head in heads if not re.search(r'<abbr title="[^"]+">[^<]+</abbr></th>$', head)] == []
    explained = set(re.findall(r'<abbr title="(.*?)">(.*?)</abbr>', html))
    assert ("the paper&#x27;s own number", "paper") in explained
    [meaning] = {meaning for meaning, head in explained if head == "Hit Rate@5"}
    assert meaning.startswith("share of questions with an answer among the first 5 passages")
    assert html.count("<script>") == 1
    assert html.count('<div class="scroll"><table') == html.count("<table"), "wide ones scroll by themselves"


def test_the_papers_numbers_beside_other_scales_explain_that_they_are_no_target(toy_runs):
    [entry] = entries_of(toy_runs)["paper", "nq", "offshelf"]
    table = make_tables([dataclasses.replace(entry, scale="embedded")])[0]
    assert "paper (orientation)" in table.columns
    assert "no target" in table.meanings["paper (orientation)"]


def test_figures_are_there_twice(made):
    names = {path.name for path in (made / "figures").iterdir()}
    assert {"figure1_vital_embedded.png", "figure3_nq_paper.svg", "figure6_vital_embedded.svg"} <= names
    assert {Path(name).stem for name in names if name.endswith("png")} == {
        Path(name).stem for name in names if name.endswith("svg")
    }
    linked = set(re.findall(r"\]\(figures/(.*?)\)", (made / "report.md").read_text()))
    assert linked == {name for name in names if name.endswith(".png")}
    assert (made / "figures" / "figure1_vital_embedded.png").read_bytes()[:4] == b"\x89PNG"


def drawn_figures(entries: list, monkeypatch) -> dict[int, Figure]:
    """Number -> figure, laid out as in its files."""
    drawn = {}

    def keep(figure: Figure, name: str, title: str, caption: str) -> Picture:
        figure.draw_without_rendering()
        drawn[int(re.match(r"figure(\d+)", name).group(1))] = figure
        return Picture(name, title, caption, "", b"")

    monkeypatch.setattr(figures, "_save_figure", keep)
    figures.draw_figures(entries)
    return drawn


def test_nothing_of_a_figure_lies_upon_its_bars_or_beyond_a_phone(toy_runs, monkeypatch):
    drawn = drawn_figures(entries_of(toy_runs)["embedded", "vital", "offshelf"], monkeypatch)
    for number in (1, 3):
        [legend] = drawn[number].legends
        place, plots = legend.get_window_extent(), [axes.get_window_extent() for axes in drawn[number].axes]
        assert not any(place.overlaps(plot) for plot in plots)
        assert place.x1 < 0.65 * drawn[number].bbox.x1
    labels = 0
    for number in (4, 5, 6, 7):
        for axes in drawn[number].axes:
            for label in axes.texts if axes.patches else ():
                if not re.fullmatch("p9[05]", label.get_text()):  # a title
                    assert label.get_window_extent().y0 > axes.get_window_extent().y1
                    continue
                assert label.get_window_extent().y0 > max(bar.get_window_extent().y1 for bar in axes.patches)
                labels += 1
    assert labels >= 6


def test_rows_named_by_many_settings_leave_room_for_their_bars(toy_runs, monkeypatch):
    notes = tuple(f"data.{name}=somewhere/far/{name}.jsonl" for name in ("train", "validation", "passages"))
    entries = entries_of(toy_runs)["embedded", "vital", "offshelf"]
    drawn = drawn_figures([dataclasses.replace(entry, notes=notes) for entry in entries], monkeypatch)
    for number in (4, 5, 6, 7):
        figure = drawn[number]
        titles = [text for axes in figure.axes for text in axes.texts if notes[0] in text.get_text()]
        assert len(titles) == len(entries)
        for title in titles:
            assert title.get_window_extent().x1 <= figure.bbox.x1
            assert not any(
                title.get_window_extent().overlaps(axes.get_window_extent()) for axes in figure.axes
            )
        assert min(axes.get_window_extent().width for axes in figure.axes) > 0.3 * figure.bbox.width


def test_an_earlier_report_is_replaced(made, toy_runs, tmp_path):
    out = tmp_path / "report"
    shutil.copytree(made, out)
    (out / "report.md").write_text("old")
    [folder] = toy_runs.glob("offshelf_nq/*")
    assert report.main([str(folder), "--out", str(out)]) == 0
    assert "1 run, 1 finished" in (out / "report.md").read_text()
    assert not list((out / "figures").glob("*vital*"))
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


# ---- mistakes ----


def refuse(capsys, *arguments: Path | str) -> str:
    assert report.main([str(argument) for argument in arguments]) == USER_ERROR
    return capsys.readouterr().err


def test_no_run(tmp_path, capsys):
    assert "no run in it" in refuse(capsys, tmp_path, "--out", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["{", "[]", '{"name": "offshelf_nq"}'])
def test_a_broken_summary(runs, tmp_path, capsys, content):
    [folder] = runs.glob("offshelf_nq/*")
    (folder / "summary.json").write_text(content)
    assert str(folder / "summary.json") in refuse(capsys, runs, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_broken_line(runs, tmp_path, capsys):
    [folder] = runs.glob("offshelf_nq/*")
    with (folder / "predictions.jsonl").open("a") as file:
        file.write('{"question": "cut')
    assert "predictions.jsonl, line 7: broken JSON" in refuse(capsys, folder, "--out", tmp_path / "out")


NESTED = "[" * 20_000 + "]" * 20_000


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("summary.json", "summary.json is damaged: JSON nested too deep"),
        ("predictions.jsonl", "predictions.jsonl, line 1: JSON that is nested too deep"),
        ("validations.jsonl", "validations.jsonl, line 1: JSON that is nested too deep"),
        ("config.yaml", "config.yaml is no YAML"),
        ("asked.yaml", "asked.yaml is no YAML"),
    ],
)
def test_what_is_nested_too_deep_is_named(runs, tmp_path, capsys, file, named):
    [folder] = runs.glob("offshelf_nq/*")
    (folder / file).write_text(NESTED)
    assert named in refuse(capsys, folder, "--out", tmp_path / "out")


def row_changed(**changes):
    """The second row of a file with other values."""

    def change(folder, name="predictions.jsonl"):
        rows = lines(folder / name)
        rows[1] |= changes
        write_lines(folder / name, rows)

    return change


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def one_row_less(folder):
    write_lines(folder / "predictions.jsonl", lines(folder / "predictions.jsonl")[1:])


def one_row_twice(folder):
    rows = lines(folder / "predictions.jsonl")
    write_lines(folder / "predictions.jsonl", [*rows, rows[0]])


def summary_changed(**changes):
    def change(folder):
        path = folder / "summary.json"
        path.write_text(json.dumps(read_json(path) | changes))

    return change


def step_changed(step):
    return lambda folder: row_changed(step=step)(folder, "validations.jsonl")


DECISION = {"step": 2, "action": "stop", "metric": "m", "baseline": 0.5, "change": -0.1, "low": -1, "high": 0}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (one_row_twice, 'predictions.jsonl, line 7: question "q7" for the second time'),
        (one_row_less, "holds other questions than"),
        (row_changed(f1=1e9), 'line 2: "f1" is 1000000000.0, which is not from 0 to 1'),
        (row_changed(f1="1"), 'line 2: "f1" is "1", which is no number'),
        (row_changed(f1=[1]), 'line 2: "f1" is [1], which is no number'),
        (row_changed(f1=float("nan")), 'line 2: "f1" is NaN'),
        (row_changed(f1=10**400), 'line 2: "f1" is a number of many digits'),
        (row_changed(f1=True), "which is no number"),
        (row_changed(id=7), "line 2: the id 7 is no text"),
        (row_changed(id=None), "line 2: the id null is no text"),
        (row_changed(question=["who?"]), 'line 2: the question ["who?"] is no text'),
        (row_changed(first_hit_rank=1e300), "first_hit_rank and passages do not fit"),
        (row_changed(first_hit_rank=-1), "first_hit_rank and passages do not fit"),
        (row_changed(passages=5), "first_hit_rank and passages do not fit"),
        (row_changed(metrics=[]), "line 2: metrics: a JSON list where names"),
        (row_changed(metrics={SPEARMAN: 1e300}), "which is not from -1e+06 to 1e+06"),
        (step_changed(1e300), "validations.jsonl, line 2: step 1e+300, of a run of 4 steps"),
        (step_changed(10**30), "of a run of 4 steps"),
        (step_changed("2"), "of a run of 4 steps"),
        (step_changed(0), "of a run of 4 steps, after [0]"),
        (step_changed(-1), "of a run of 4 steps"),
        (summary_changed(stopped=[]), "summary.json: stopped is no text"),
        (summary_changed(started_from="x"), "started_from: a JSON str"),
        (summary_changed(decisions={}), "decisions are no list"),
        (summary_changed(decisions=[{}]), "a decision without step"),
        (summary_changed(decisions=[{**DECISION, "low": "x"}]), "which is no number"),
        (summary_changed(decisions=[{**DECISION, "rule": "m >= 1"}]), "a decision without value"),
        (summary_changed(bm25={"bm25/hr_at_5": {"after": 7}}), "which is not from 0 to 1"),
        (summary_changed(hr_at_5=[]), "hr_at_5: a JSON list"),
        (summary_changed(hr_at_5={"before": 0.0, "after": 1.0}), "the mean of hr_at_5 over its 6 questions"),
    ],
)
def test_a_run_that_cannot_be_is_named_and_left_out(runs, change, named):
    """The others are reported as ever."""
    for other in (runs / "offshelf_nq", runs / "checkpoint_vital"):
        shutil.rmtree(other)
    first, second = sorted((runs / "offshelf_vital").iterdir())
    change(first)
    found = sort_runs(collect_runs([runs]))
    [status] = [status for run, status in found.statuses if run.path == first]
    assert status.startswith("does not count: not to be believed, ")
    assert named in status
    assert len(status) < 250
    [entry] = [entry for entry in found.entries if entry.is_measured]
    assert [run.path for run in entry.runs] == [second]


def test_what_is_left_out_is_said(runs, tmp_path, capsys):
    [folder] = runs.glob("offshelf_nq/*")
    one_row_twice(folder)
    assert report.main([str(runs), "--out", str(tmp_path / "out")]) == 0
    assert f"left out: {folder}: does not count: not to be believed, predictions" in capsys.readouterr().err
    assert "not to be believed" in (tmp_path / "out" / "report.md").read_text()


def test_a_folder_of_other_files_is_left_alone(toy_runs, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("years of work")
    assert "holds other files" in refuse(capsys, toy_runs, "--out", tmp_path)
    assert "is a file" in refuse(capsys, toy_runs, "--out", tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_written(toy_runs, tmp_path, capsys):
    """Below a file there is no folder to write to, whoever asks."""
    (tmp_path / "file").write_text("")
    error = refuse(capsys, next(toy_runs.glob("checkpoint_vital/*")), "--out", tmp_path / "file" / "out")
    assert "cannot write the report" in error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]

"""The pre-flight check from the command line, on tiny models: what it says, saves and refuses."""

import html.parser
import json
import re
from pathlib import Path

import pytest
import torch

from datamodules.batches import Batch
from datamodules.sealed_files import read_json, write_json
from experiments import preflight_run, probe
from experiments.build import build_objective, build_reader, build_retriever
from experiments.checks import check_config, read_baseline
from experiments.config import ConfigError, load_config
from experiments.runs import create_run
from tests.lightning_modules.test_reranker import saved as saved_cross_encoder
from tests.tiny_models import save_tiny_models, tiny_cross_encoder, toy_passages, toy_questions
from tests.toy_files import as_overrides, toy_settings

CONTEXTS = {"concatenated": "llama", "independent": "llama", "fusion": "t5"}


@pytest.fixture(scope="module", params=list(CONTEXTS))
def probed(request, tmp_path_factory):
    """Context, settings and the saved JSON of a check that read all questions."""
    folder = tmp_path_factory.mktemp(request.param)
    family = CONTEXTS[request.param]
    reader, _ = save_tiny_models(folder / "family", family)
    changes = {"reader__name": reader, "training__num_passages": 20, "objective__in_batch": "true"}
    if family == "llama":
        changes["reader__context"] = request.param
    settings = as_overrides(toy_settings(folder, **changes, init__reader_from="null"))
    arguments = ["--exp", "step2_vital", "--split", "train", "--instances", "12", "--compare", "4", "--all"]
    assert probe.main([*arguments, "--out", str(folder / "out"), *settings]) == 0
    return request.param, settings, json.loads((folder / "out" / "probe.json").read_text()), folder / "out"


def configured_row(saved):
    [row] = [row for row in saved["result"]["rows"] if row["name"] == saved["result"]["configured"]]
    return row


def test_every_variant_has_a_row(probed):
    context, _, saved, _ = probed
    names = {row["name"] for row in saved["result"]["rows"]}
    if context == "fusion":
        assert {"adist sum", "adist mean", "adist sum with template", "pdist", "emdr2", "loop"} <= names
        return
    assert saved["result"]["configured"] == f"adist {context} sum"
    assert {
        f"adist {order} sum"
        for order in ("independent", "concatenated", "concatenated shuffled", "concatenated averaged")
    } <= names
    assert {"pdist independent", "emdr2 independent", "loop independent", "loop concatenated"} <= names
    assert ("pdist concatenated" in names) == (context == "concatenated")


def test_the_configured_teacher_is_what_training_would_use(probed):
    """AUC and mass on answers, from the models themselves."""
    _, settings, saved, _ = probed
    row = configured_row(saved)
    assert row["temperature"] == load_config("step2_vital", settings).objective.attention_temperature
    assert saved["result"]["num_questions"] == len(saved["instances"]["question_ids"]) == 12
    assert set(saved["retrieved"]) == set(saved["instances"]["question_ids"])
    aucs, masses = [], []
    for p, hits in taught_distributions(settings, saved["retrieved"]):
        yes, no = p[hits].tolist(), p[~hits].tolist()
        wins = [(a > b) + 0.5 * (a == b) for a in yes for b in no]
        aucs.append(sum(wins) / len(wins))
        masses.append(sum(yes))
    assert len(aucs) == row["auc"]["n"] > 0
    assert row["auc"]["mean"] == pytest.approx(sum(aucs) / len(aucs), abs=1e-4)
    assert row["mass_on_answers"]["mean"] == pytest.approx(sum(masses) / len(masses), abs=1e-4)


def run_probe(tmp_path, **changes):
    """Settings, and the JSON of a check of all questions."""
    changes |= {"training__num_passages": 20, "init__reader_from": "null"}
    settings = as_overrides(toy_settings(tmp_path, **changes))
    arguments = ["--exp", "step2_vital", "--split", "train", "--instances", "12", "--compare", "4", "--all"]
    assert probe.main([*arguments, "--out", str(tmp_path / "out"), *settings]) == 0
    return settings, json.loads((tmp_path / "out" / "probe.json").read_text())


def similarities_of(settings, retrieved):
    """The retriever's scores of each question's passages, and its dimensions."""
    retriever = build_retriever(load_config("step2_vital", settings))
    questions = {question.id: question for question in toy_questions()}
    passages = {passage.id: passage for passage in toy_passages()}
    found = {}
    with torch.no_grad():
        for question_id, found_ids in retrieved.items():
            query = retriever.encode_queries([questions[question_id].text])
            encoded = retriever.encode_passages([passages[passage_id] for passage_id in found_ids])
            found[question_id] = query @ encoded.T
    return found, encoded.shape[-1]


def taught_distributions(settings, retrieved, similarities=None):
    """What an experiment's teacher gives to the passages, from the models themselves, and which of them hold
    an answer; of questions with a positive and a negative passage."""
    config = load_config("step2_vital", settings)
    check_config(config)
    reader, objective = build_reader(config), build_objective(config)
    by_question, dim = similarities or similarities_of(settings, retrieved)
    questions = {question.id: question for question in toy_questions()}
    passages = {passage.id: passage for passage in toy_passages()}
    distributions = []
    for question_id, found_ids in retrieved.items():
        question, found = questions[question_id], [passages[passage_id] for passage_id in found_ids]
        scores = by_question[question_id] / (dim**0.5 if objective.constants == "atlas" else 1.0)
        log_p_retr = (scores / config.objective.retrieval_temperature).log_softmax(dim=-1)
        with torch.no_grad():
            output = objective.read(reader, Batch([question], [found], [question.answers[0]]))
        p = objective.log_p_target(output, log_p_retr)[0].exp()
        hits = torch.tensor([question.answers[0].lower() in passage.text.lower() for passage in found])
        if hits.any() and not hits.all():
            distributions.append((p, hits))
    return distributions


def taught_mass_on_answers(settings, retrieved, similarities=None) -> list[float]:
    return [float(p[hits].sum()) for p, hits in taught_distributions(settings, retrieved, similarities)]


@pytest.mark.parametrize(
    ("objective", "temperature"), [("pdist", 0.3), ("loop", 0.3), ("emdr2", 1.0), ("emdr2", 0.3)]
)
def test_other_objectives_are_judged_as_they_would_teach(tmp_path, objective, temperature):
    key = "objective__reader_temperature" if objective == "emdr2" else "objective__attention_temperature"
    settings, saved = run_probe(tmp_path, objective__name=objective, **{key: temperature})
    masses = taught_mass_on_answers(settings, saved["retrieved"])
    own = configured_row(saved)
    assert own["mass_on_answers"]["mean"] == pytest.approx(sum(masses) / len(masses), abs=1e-4)
    assert own["mass_on_answers"]["n"] == len(masses) > 0
    assert own["fixed_preference"]["n"] > 0


PASTED = re.compile(
    r"(adist|pdist|emdr2|loop) independent( all heads)?( sum| top5)?( minmax)?"
    r"|signals independent question \+ likelihood"
)


@pytest.mark.parametrize(
    "changes",
    [
        {"objective__constants": "atlas", "objective__attention_distribution": "sum"},
        {"objective__name": "pdist", "objective__attention_distribution": "sum"},
        {"reader__attention_heads": "'0.*'"},
        {"objective__name": "emdr2", "objective__reader_temperature": 0.3},
    ],
)
def test_a_row_pasted_teaches_what_the_row_says(tmp_path, changes):
    """Whatever else is configured."""
    settings, saved = run_probe(tmp_path, **changes)
    checked = set()
    similarities = similarities_of(settings, saved["retrieved"])  # no row changes the retriever
    for row in saved["result"]["rows"]:
        if not PASTED.fullmatch(row["name"]):
            continue
        masses = taught_mass_on_answers([*settings, *row["overrides"]], saved["retrieved"], similarities)
        assert row["mass_on_answers"]["n"] == len(masses), row["name"]
        expected = pytest.approx(sum(masses) / len(masses), abs=1e-4)
        assert row["mass_on_answers"]["mean"] == expected, row["name"]
        checked.add(row["name"])
    usual = {"adist independent sum", "adist independent top5", "pdist independent", "loop independent"}
    assert {*usual, "emdr2 independent", "signals independent question + likelihood"} <= checked
    configured = saved["result"]["configured"]
    if configured_row(saved)["temperature"] is not None:
        assert f"{configured} minmax" in checked
    assert ("adist independent all heads sum" in checked) == ("reader__attention_heads" in changes)
    assert saved["result"]["rows"][0]["name"] == saved["result"]["papers"]


def test_heads_are_searched_where_there_are_questions_enough(probed):
    """A fold each way of five needs ten questions with a positive and a negative passage."""
    context, _, saved, out = probed
    num_questions = configured_row(saved)["auc"]["n"]
    heads = saved["result"]["heads"]
    assert (heads is not None) == (num_questions >= 10)
    if heads is not None:
        assert len(heads["head_auc"]) == (3 if context == "fusion" else 2)
        assert {len(of_layer) for of_layer in heads["head_auc"]} == {4}
        assert heads["gain"] == pytest.approx(heads["auc"] - heads["auc_of_all"])
        assert (out / "heads.svg").is_file()


def test_passages_are_also_asked_an_unrelated_question(probed):
    """By every reader of which one pass gives the scores, and then about questions with an AUC alone."""
    context, _, saved, _ = probed
    rows = {row["name"]: row for row in [*saved["result"]["rows"], *saved["result"]["references"]]}
    read = {"adist sum"} if context == "fusion" else {"adist concatenated sum", "emdr2 independent"}
    for name in read:
        assert rows[name]["fixed_preference"]["n"] >= 2
        assert -1 <= rows[name]["fixed_preference"]["mean"] <= 1
    assert rows["passage length alone"]["fixed_preference"]["n"] == 0


def test_every_row_says_how_it_goes_with_passage_length(probed):
    context, _, saved, out = probed
    rows = {row["name"]: row for row in [*saved["result"]["rows"], *saved["result"]["references"]]}
    assert rows["passage length alone"]["length_tau"]["mean"] == pytest.approx(1.0)
    assert rows["uniform"]["auc"]["mean"] == 0.5
    assert rows["uniform"]["length_tau"]["n"] == 0, "an order that is none"
    scored = [row for row in rows.values() if row["auc"]["n"] and row["name"] != "uniform"]
    assert scored
    assert all(row["length_tau"]["n"] > 0 for row in scored)
    own = configured_row(saved)
    name = "adist" if context == "fusion" else f"adist {context}"
    agreement = saved["result"]["agreement"][f"{name} sum / passage length"]
    assert own["length_tau"] == agreement
    text = (out / "probe.html").read_text()
    assert "<th>tau with passage length</th>" in text
    assert "<th>same order for an unrelated question</th>" in text
    assert f"<td>{own['length_tau']['mean']:.2f} <small>[" in text


def test_instances_can_be_a_baseline(probed):
    _, _, saved, _ = probed
    values = saved["instances"]["values"]
    assert {
        "indicator1/spearman_p90",
        "indicator2/attention_p95",
        "indicator2/lift_p95",
        "teacher/auc",
        "retrieval/hit",
    } <= values.keys()
    assert {len(of_metric) for of_metric in values.values()} == {12}


def test_training_questions_are_no_baseline_of_validations(probed):
    """Files without ids number their lines: the same ids are of other questions."""
    _, settings, saved, out = probed
    data = load_config("step2_vital", settings).data
    with pytest.raises(ConfigError, match=r"is of other questions \(train, .*\) than this run's validations"):
        read_baseline(out / "probe.json", ["retrieval/hit"], data)
    path = out / "validation.json"
    write_json(path, {**read_json(out / "probe.json"), "split": "validation"})
    assert read_baseline(path, ["retrieval/hit"], data).question_ids == saved["instances"]["question_ids"]


def test_the_page_needs_no_other_file(probed):
    _, _, saved, out = probed
    tags = []

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            tags.append(tag)
            given = dict(attributes)
            assert not given.get("src")
            assert all(value.startswith(("#", "data:")) for name, value in given.items() if "href" in name)

    text = (out / "probe.html").read_text()
    Parser().feed(text)
    assert tags.count("h1") == 1
    assert all(row["name"] in text for row in saved["result"]["rows"])
    assert f">{saved['result']['verdict']['advice']}<" in text
    assert not list(out.glob("*.partial"))


def test_recommended_overrides_are_settings(probed):
    """Pasted behind the experiment's name they are accepted, of every row."""
    _, settings, saved, _ = probed
    rows = [row for row in saved["result"]["rows"] if row["overrides"]]
    assert rows
    for row in rows:
        config = load_config("step2_vital", [*settings, *row["overrides"]])
        check_config(config)
        assert config.objective.name == row["name"].split()[0]


def test_it_names_the_run_that_the_reader_is_of_and_the_templates_text(tmp_path, monkeypatch):
    """Whatever `latest` and the file are when somebody asks which reader the verdict is on."""
    step1 = create_run(load_config("step1_vital", [f"runs={tmp_path}"]))
    step1.reader.mkdir()
    write_json(step1.summary, {"status": "finished"})
    (tmp_path / "mine.txt").write_text("{passage}\nQ: {question}\nA: {answer}\n")
    checked = []

    def run_preflight(config, *_, **__):
        checked.append(config)
        raise ConfigError("that is enough")

    monkeypatch.setattr(preflight_run, "run_preflight", run_preflight)
    settings = [f"runs={tmp_path}", f"reader.template={tmp_path / 'mine.txt'}"]
    assert probe.main(["--exp", "step2_vital", *settings, "init.reader_from=latest:step1_vital"]) == 2
    [config] = checked
    assert config.init.reader_from == str(step1.path)
    assert config.reader.template == "{passage}\nQ: {question}\nA: {answer}"


def test_a_clear_verdict_stops_early(tmp_path, capsys, monkeypatch):
    from lightning_modules import preflight

    monkeypatch.setattr(preflight, "is_clear", lambda collected, configured: len(collected.questions) >= 4)
    settings = as_overrides(toy_settings(tmp_path, init__reader_from="null"))
    arguments = ["--exp", "step2_vital", "--instances", "6", "--compare", "0", "--out", str(tmp_path / "out")]
    settings_of = preflight.PreflightSettings
    monkeypatch.setattr(preflight, "PreflightSettings", lambda **given: settings_of(**given, look_every=4))
    assert probe.main([*arguments, *settings]) == 0
    saved = json.loads((tmp_path / "out" / "probe.json").read_text())
    assert saved["result"]["stopped_early"]
    assert saved["result"]["num_questions"] == 4
    assert "verdict on adist" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--exp", "step2_vitel"], "did you mean 'step2_vital'?"),
        (["--exp", "step2_vital", "--instances", "1"], "--instances must be at least 2"),
        (["--exp", "step2_vital", "objective.name=x"], "objective.name='x' is unknown"),
        (["--exp", "step2_vital", "runs={folder}"], "there is no finished run of step1_vital"),
    ],
)
def test_mistakes_are_one_line(capsys, tmp_path, arguments, message):
    arguments = [argument.format(folder=tmp_path) for argument in arguments]
    assert probe.main(arguments) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert message in errors[0]
    assert list(Path(tmp_path).iterdir()) == []


def test_calibrations_and_a_reranker_are_compared(tmp_path, capsys):
    cross_encoder = saved_cross_encoder(tmp_path / "judge", tiny_cross_encoder())
    changes = {"reader__context": "independent", "training__num_passages": 20, "init__reader_from": "null"}
    settings = as_overrides(toy_settings(tmp_path, **changes))
    arguments = ["--exp", "step2_vital", "--instances", "6", "--compare", "2", "--calibrations"]
    arguments += ["--reranker", str(cross_encoder), "--out", str(tmp_path / "out"), *settings]
    assert probe.main(arguments) == 0
    result = json.loads((tmp_path / "out" / "probe.json").read_text())["result"]
    rows = {row["name"]: row for row in result["rows"]}
    calibrated = rows["signals independent question over unrelated"]
    assert "objective.calibration.reference=unrelated" in calibrated["overrides"]
    assert result["references"][-1]["name"] == "reranker judge"
    assert f"the reranker {cross_encoder}" in " ".join(capsys.readouterr().out.split())
    assert probe.main([*arguments, "--reranker", str(tmp_path / "absent")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    idle = ["--exp", "step2_vital", "--instances", "2", "--compare", "0", "--calibrations", "--split"]
    idle += ["train", "--out", str(tmp_path / "idle"), *settings, "trainer.max_steps=0"]
    assert probe.main(idle) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "no signals calibrated by unrelated questions are compared" in printed
    assert "no signals calibrated by unrelated questions" in (tmp_path / "idle" / "probe.html").read_text()

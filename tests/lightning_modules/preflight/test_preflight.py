"""The pre-flight check from Python, on tiny models."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from datamodules.batches import Batch, Question, SolvedExample
from datamodules.bm25 import BM25Index
from datamodules.prompts import Context
from lightning_modules import RetrieverReaderModule, head_lists
from lightning_modules import preflight as package
from lightning_modules.attention_heads import AttentionHeads
from lightning_modules.encoding import build_index
from lightning_modules.evaluation import find_hits
from lightning_modules.metrics.teacher_auc import teacher_auc
from lightning_modules.objectives import EMDR2, LOOP, ADist, EndToEnd, PDist, Signals
from lightning_modules.preflight import PreflightSettings, head_sets, preflight
from lightning_modules.preflight.configured import ConfiguredTeacher
from lightning_modules.preflight.head_sets import HeadSet
from lightning_modules.preflight.other_passes import read_otherwise
from lightning_modules.preflight.variants import ComparedObjectives, Variant
from lightning_modules.read_once import ReadOnce
from lightning_modules.readers.decoder_only import DecoderOnlyReader
from lightning_modules.reranker import Reranker
from lightning_modules.retriever_reader import preferred_answers
from tests.datamodules.test_bm25 import written_out
from tests.lightning_modules.test_head_lists import list_of
from tests.tiny_models import (
    tiny_cross_encoder,
    tiny_reader_of,
    tiny_retriever,
    tiny_tokenizer,
    toy_knowledge_base,
    toy_passages,
    toy_questions,
)

KINDS = ["concatenated", "independent", "fusion_in_decoder"]
FEW = PreflightSettings(num_instances=12, num_compared=4, num_left_out=2)


@pytest.fixture(scope="module")
def knowledge_base(tmp_path_factory):
    return toy_knowledge_base(tmp_path_factory.mktemp("toy"))


def module_of(knowledge_base, kind="concatenated", **settings) -> RetrieverReaderModule:
    settings = {"num_passages": 20, "hit_rate_ks": (1, 5), **settings}
    return RetrieverReaderModule(tiny_retriever(), tiny_reader_of(kind), knowledge_base, **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_a_check_in_a_few_lines_of_python(knowledge_base, kind):
    module = module_of(knowledge_base, kind, train_reader=True)
    weights = {name: weight.clone() for name, weight in module.state_dict().items()}
    result = preflight(module, toy_questions(), FEW, stops_early=False)
    assert result.verdict.reasons
    assert result.num_questions == len(result.retrieved) == 12
    assert result.rows[0].name == result.papers == result.configured
    assert result.questions.question_ids == list(result.retrieved)
    assert {len(values) for values in result.questions.values.values()} == {12}
    assert {len(found) for found in result.retrieved.values()} == {20}
    assert module.index is None, "it was built for the check alone"
    assert module.reader.training
    assert all(torch.equal(weight, weights[name]) for name, weight in module.state_dict().items())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_an_index_that_is_there_is_used(knowledge_base):
    module = module_of(knowledge_base)
    settings = replace(FEW, num_compared=0)
    expected = preflight(module, toy_questions(), settings)
    module.index = index = build_index(module.retriever, knowledge_base)
    found = preflight(module, toy_questions(), settings)
    assert module.index is index
    assert (found.verdict, found.retrieved) == (expected.verdict, expected.retrieved)


def read_by(module: RetrieverReaderModule, knowledge_base) -> ConfiguredTeacher:
    """Everything is read, and nothing said of it."""
    module.index = build_index(module.retriever, knowledge_base)
    teacher = ConfiguredTeacher(module)
    teacher.read(toy_questions(), FEW, lambda: False, lambda num: None)
    read_otherwise(teacher, FEW, lambda num: None)
    return teacher


@pytest.mark.parametrize(
    ("objective", "kind"),
    [
        (objective, kind)
        for objective in (ADist(), PDist(), EMDR2(), LOOP(), EMDR2(reader_temperature=0.5), EndToEnd())
        for kind in KINDS
        if objective.unfit(tiny_reader_of(kind)) is None
    ],
    ids=str,
)
def test_the_configured_teacher_is_what_training_would_use(knowledge_base, kind, objective):
    module = module_of(knowledge_base, kind, objective=objective, num_passages=6, token_drops="gradient")
    teacher = read_by(module, knowledge_base)
    scores = teacher.collected.scores(teacher.variant)
    for question, found in zip(teacher.collected.questions, scores, strict=True):
        batch = Batch([question], module.retrieve([question], 6), preferred_answers([question]))
        read = module.read_questions(batch)
        target = objective.log_p_of_scores(found[None]).exp()
        torch.testing.assert_close(target, read.p_target, rtol=1e-3, atol=1e-5)


def test_how_many_questions_each_objective_reads(knowledge_base):
    def counts(objective, kind="concatenated"):
        module = module_of(knowledge_base, kind, objective=objective)
        collected = read_by(module, knowledge_base).collected
        assert collected.has_both.sum() > 4
        scores = {variant.name: collected.scores(variant) for variant in collected.variants}
        return {name: int((~found.isnan()).all(dim=1).sum()) for name, found in scores.items()}

    by_attention = counts(ADist())
    assert by_attention["adist concatenated sum"] == 12
    assert by_attention["adist concatenated shuffled top5"] == by_attention["adist independent sum"] == 4
    assert by_attention["pdist concatenated"] == by_attention["pdist independent"] == 4
    assert (by_attention["loop concatenated"], by_attention["loop independent"]) == (2, 4)
    by_likelihood = counts(EMDR2(reader_temperature=0.5))
    names = ("pdist concatenated", "emdr2 concatenated", "emdr2 concatenated logits/0.5")
    assert [by_likelihood[name] for name in names] == [12] * 3
    assert counts(LOOP())["loop concatenated"] == 12
    assert by_attention["end_to_end concatenated"] == 2
    alone = counts(ADist(), "independent")
    names = ("adist independent sum", "pdist independent", "emdr2 independent", "loop independent")
    assert [alone[name] for name in names] == [12] * 4
    assert (alone["adist concatenated averaged sum"], alone["loop concatenated"]) == (4, 2)
    assert "pdist concatenated" not in alone
    fused = counts(ADist(), "fusion_in_decoder")
    assert (fused["adist sum"], fused["pdist"], fused["emdr2"], fused["loop"]) == (12, 4, 4, 2)


def test_an_objective_that_needs_no_reader_has_one_row_and_an_unrelated_order(knowledge_base, monkeypatch):
    class ByLength(ADist):
        name = "by_length"
        uses_reader = False
        uses_attention = False

        def variants(self):
            return [self]

        @property
        def details(self):
            return ()

    registered = {ADist.name: ADist, ByLength.name: ByLength}
    monkeypatch.setattr("lightning_modules.objectives.OBJECTIVES", registered)
    monkeypatch.setattr("lightning_modules.preflight.variants.OBJECTIVES", registered)
    result = preflight(module_of(knowledge_base), toy_questions(), FEW, stops_early=False)
    [row] = [row for row in result.rows if row.name.startswith("by_length")]
    assert row.name == row.way == "by_length"
    assert row.auc.n == result.configured_row.auc.n
    assert row.fixed_preference.n == 4


@pytest.mark.parametrize("kind", ["concatenated", "independent"])
def test_a_teacher_with_examples_is_compared_with_itself_without(knowledge_base, kind):
    module = module_of(knowledge_base, kind)
    solved, bare = toy_questions()[10], module.reader
    module.reader = bare.showing(examples=[SolvedExample(solved, knowledge_base[10], solved.answers[0])])
    settings = PreflightSettings(num_instances=3, num_compared=2, num_orders=1, num_left_out=0)
    result = preflight(module, toy_questions()[:3], settings, stops_early=False)
    rows = {row.name: row for row in result.rows}
    own, other = rows[f"adist {kind} sum"], rows[f"adist {kind} without examples sum"]
    assert result.configured == own.name
    assert "reader.num_examples=1" in own.overrides
    assert "reader.num_examples=0" in other.overrides
    assert (own.auc.n, other.auc.n, other.fixed_preference.n) == (2, 2, 2)
    module.index = build_index(module.retriever, knowledge_base)
    questions = toy_questions()[:3]
    batch = Batch(questions, module.retrieve(questions, 20), preferred_answers(questions))
    hits = find_hits(questions, batch.passages, module.answer_match)
    with torch.no_grad():
        log_p_retr = module.log_p_retr(batch)
        scores = [ADist().passage_scores(reader.read(batch), log_p_retr) for reader in (module.reader, bare)]
    expected_own, expected_other = (float(teacher_auc(of_reader, hits).nanmean()) for of_reader in scores)
    assert (own.auc.mean, other.auc.mean) == pytest.approx((expected_own, expected_other))
    assert expected_own != expected_other
    if kind == "concatenated":
        assert set(result.mass_by_position) == {"rank"}


UNRELATED = [("who is it", "Bob"), ("where is Rome", "Italy"), ("what is the capital of Peru", "Lima")]


@pytest.mark.parametrize("reference", ["none", "content_free", "unrelated"])
def test_calibrated_signals_are_rows_and_teach_as_a_run_would(knowledge_base, tmp_path, reference):
    own = {"reference": reference, "unrelated": tuple(UNRELATED) if reference == "unrelated" else ()}
    module = module_of(knowledge_base, "independent", objective=Signals(calibration=own))
    module.read_once = ReadOnce(module.reader, tmp_path)
    module.index = build_index(module.retriever, knowledge_base)
    settings = replace(FEW, num_compared=2, num_orders=1, num_left_out=0, calibrations=True)
    teacher = ConfiguredTeacher(module, unrelated=UNRELATED)
    teacher.read(toy_questions(), settings, lambda: False, lambda num: None)
    read_otherwise(teacher, settings, lambda num: None)
    collected = teacher.collected
    variants = {variant.name: variant for variant in collected.variants}
    for of in ("content_free", "unrelated"):
        for how in ("less", "over"):
            for by in ("", " by token"):
                for what in ("answer", "question", "question + likelihood", "answer + question + likelihood"):
                    variant = variants[f"signals independent {what} {how} {of}{by}"]
                    assert int((~collected.unrelated_scores(variant).isnan()).all(dim=1).sum()) == 2
                    scores = collected.scores(variant)
                    rows = (~scores.isnan()).all(dim=1).nonzero()[:, 0].tolist()
                    is_configured = variant.objective.calibration == module.objective.calibration
                    assert len(rows) == (12 if is_configured else 2)
                    question = collected.questions[rows[-1]]
                    batch = Batch([question], module.retrieve([question], 20), preferred_answers([question]))
                    passes = variant.objective.read(module.reader, batch)
                    expected = variant.objective.passage_scores(passes, torch.zeros(1, 20))
                    torch.testing.assert_close(scores[rows[-1]], expected[0], rtol=1e-3, atol=1e-4)
    assert len(variants) == len(collected.variants)
    [name] = [n for n in variants if n == "signals independent question over unrelated by token"]
    assert "objective.calibration.level=token" in variants[name].overrides


def test_calibrations_are_compared_where_asked_for(knowledge_base):
    module = module_of(knowledge_base, "independent")
    few = replace(FEW, num_compared=2, num_orders=1, num_left_out=0)
    result = preflight(module, toy_questions(), few, unrelated=UNRELATED)
    assert not [row.name for row in result.rows if "content_free" in row.name]
    assert result.notes == []
    result = preflight(module, toy_questions(), replace(few, calibrations=True))
    rows = [row for row in result.rows if "content_free" in row.name]
    assert len(rows) == 16
    assert {row.auc.n for row in rows} == {2}
    assert not [row.name for row in result.rows if "unrelated" in row.name], "there are none to ask"
    [note] = result.notes
    assert "no signals calibrated by unrelated questions are compared" in note


@pytest.mark.parametrize(
    ("kind", "unrelated", "said"),
    [
        ("independent", UNRELATED, None),
        ("independent", UNRELATED[:1], "at least 2 training questions that have answers, and there are 1"),
        ("concatenated", UNRELATED, "no calibrated signals are compared: signals come from one pass over"),
    ],
)
def test_what_is_not_calibrated_is_said(kind, unrelated, said):
    found = ComparedObjectives.beside(ADist()).why_not_calibrated(tiny_reader_of(kind), unrelated)
    assert found is None if said is None else said in found


def test_a_reranker_is_compared_with_the_reader(knowledge_base):
    module = module_of(knowledge_base)
    reranker = Reranker("folder/tiny", tiny_cross_encoder(), tiny_tokenizer())
    result = preflight(module, toy_questions(), replace(FEW, num_compared=0), reranker=reranker)
    name, gain = result.reranker
    row = result.references[-1]
    assert (name, row.name, row.overrides) == ("folder/tiny", "reranker tiny", None)
    questions = [q for q in toy_questions() if q.id in result.retrieved]
    module.index = build_index(module.retriever, knowledge_base)
    batch = Batch(questions, module.retrieve(questions, 20), preferred_answers(questions))
    expected = teacher_auc(reranker.scores(batch), find_hits(questions, batch.passages, module.answer_match))
    assert row.auc.mean == pytest.approx(float(expected.nanmean()))
    assert gain.mean == pytest.approx(row.auc.mean - result.configured_row.auc.mean)
    assert preflight(module, toy_questions(), replace(FEW, num_compared=0)).reranker is None


def test_heads_bm25_and_the_papers_teacher_are_rows_of_the_same_passes(knowledge_base, tmp_path, monkeypatch):
    """Signals of some heads are configured; of one method a list is shipped, of the other none."""
    monkeypatch.setattr(head_lists, "SHIPPED", tmp_path)
    monkeypatch.setattr(head_sets, "PUBLISHED", (("qrhead", 3), ("core", 2)))
    plain = tiny_reader_of("independent")
    list_of(plain.model).save(tmp_path / "qrhead.json")
    module = module_of(
        knowledge_base,
        "independent",
        objective=Signals(signals={"question": 1.0}, attention_temperature=0.5),
        num_passages=24,
        bm25=BM25Index.build(knowledge_base),
    )
    module.reader = DecoderOnlyReader(plain.model, plain.prompts, AttentionHeads.parse("0.1,1.2"))
    few = replace(FEW, num_compared=2, num_orders=1, num_left_out=0)
    result = preflight(module, toy_questions(), few, stops_early=False)
    rows = {row.name: row for row in result.rows}
    assert [row.name for row in result.rows[:2]] == [
        "adist independent all heads sum",
        "signals independent question",
    ]
    assert (result.papers, result.configured) == tuple(row.name for row in result.rows[:2])
    assert result.configured_row.temperature == 0.5
    assert {"reader.attention_heads=null", "objective.scale=raw"} <= set(result.rows[0].overrides)
    assert "reader.attention_heads=null" in rows["pdist independent"].overrides

    module.index = build_index(module.retriever, knowledge_base)
    questions = [q for q in toy_questions() if q.id in result.retrieved]
    batch = Batch(questions, module.retrieve(questions, 24), preferred_answers(questions))
    hits = find_hits(questions, batch.passages, module.answer_match)
    listed = DecoderOnlyReader(plain.model, plain.prompts, AttentionHeads.parse("0.2,1.0,1.3"))
    for objective in (ADist(), Signals(), Signals(signals={"question": 1.0})):
        with torch.no_grad():
            scores = objective.passage_scores(objective.read(listed, batch), torch.zeros(12, 24))
        row = rows[Variant(objective, Context.INDEPENDENT, heads=HeadSet("qrhead:3", None)).name]
        assert row.auc.mean == pytest.approx(float(teacher_auc(scores, hits).nanmean()), abs=1e-3)
        assert (row.auc.n, row.fixed_preference.n) == (12, 2)
        assert "reader.attention_heads=qrhead:3" in row.overrides
        held_out = rows[Variant(objective, Context.INDEPENDENT, heads=HeadSet("core:2 held out", None)).name]
        assert (held_out.auc.n, held_out.overrides) == (12, None)
    assert rows["adist concatenated qrhead:3 sum"].auc.n == 2
    [note] = result.notes
    assert "no list of this reader's heads by core:2 is shipped" in note
    assert result.heads.rows == "question"
    assert "objective.signals.question=1" in result.heads.overrides
    assert f'reader.attention_heads="{result.heads.heads}"' in result.heads.overrides

    [bm25] = [row for row in result.references if row.name == "BM25"]
    scored = dict(zip((p.id for p in toy_passages()), range(24), strict=True))
    of_passages = np.array([written_out(question.text, toy_passages()) for question in questions])
    order = np.array([[scored[passage.id] for passage in found] for found in batch.passages])
    expected = teacher_auc(torch.from_numpy(np.take_along_axis(of_passages, order, axis=1)), hits)
    assert bm25.auc.mean == pytest.approx(float(expected.nanmean()))


def test_a_clear_verdict_stops_early(knowledge_base, monkeypatch):
    monkeypatch.setattr(package, "is_clear", lambda collected, configured: len(collected.questions) >= 4)
    module, settings = module_of(knowledge_base), replace(FEW, num_compared=0, look_every=4)
    result = preflight(module, toy_questions(), settings)
    assert result.stopped_early
    assert result.num_questions == 4
    assert preflight(module, toy_questions(), settings, stops_early=False).num_questions == 12


def test_progress_counts_what_is_read(knowledge_base):
    counted = {}

    class Bar:
        def __init__(self, work, total):
            self.work, self.total = work, total

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def update(self, n):
            counted[self.work, self.total] = counted.get((self.work, self.total), 0) + n

    preflight(module_of(knowledge_base), toy_questions(), FEW, stops_early=False, progress=Bar)
    # 4 in other contexts and orders, 4 about unrelated questions, 2 with passages left out
    assert counted == {("Reading", 12): 12, ("Comparing variants", None): 10}


def test_nouns_are_sought_in_the_chosen_questions_alone(knowledge_base):
    tagged = []

    def tag(questions: list[Question]) -> list[Question]:
        tagged.extend(question.id for question in questions)
        return [replace(question, nouns=((12, 19),)) for question in questions]

    questions = [replace(question, nouns=()) for question in toy_questions()]
    result = preflight(module_of(knowledge_base), questions, replace(FEW, num_instances=6), tag=tag)
    assert tagged == result.questions.question_ids
    assert len(tagged) == 6
    assert result.measures["indicator2/lift_p90"].n == 3, "half of them were not chosen for their passages"


def test_no_questions_are_refused(knowledge_base):
    with pytest.raises(ValueError, match="there are no questions to read"):
        preflight(module_of(knowledge_base), [])

"""Which passages are candidates, against the rule written out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from datamodules.batches import Passage
from datamodules.bm25 import BM25Index
from lightning_modules.candidates import Candidates, interleave, other_passages
from lightning_modules.encoding import build_index
from tests.tiny_models import toy_questions
from tests.toy_training import LIGHTNING_ADVICE, toy_datamodule, toy_module, toy_trainer

pytestmark = pytest.mark.filterwarnings(*LIGHTNING_ADVICE)

INDEX, BM25 = [9, 7, 5, 3, 1], [7, 8, 6, 4, 2]


def test_first_of_one_source_are_its_first():
    assert Candidates("index").choose([INDEX], 3, (0, "q")) == [9, 7, 5]


def test_first_of_both_come_by_turns_and_once():
    assert Candidates("both").choose([BM25, INDEX], 4) == [7, 9, 8, 6]
    assert interleave([BM25, INDEX]) == [7, 9, 8, 6, 5, 4, 3, 2, 1]


def test_what_is_beyond_n_only_fills_up():
    """Of the first 2 of each, 3 are different; the fourth is the next one in turn."""
    assert Candidates("both", num_from_each=2).choose([BM25, INDEX], 3) == [7, 9, 8]
    assert Candidates("both", num_from_each=2).choose([BM25, INDEX], 4) == [7, 9, 8, 6]


def test_samples_are_of_the_first_n_and_change_with_step_and_question():
    candidates = Candidates("index", "sampled", num_from_each=4)
    drawn = {tuple(candidates.choose([INDEX], 2, (step, "q"))) for step in range(60)}
    pairs = {(a, b) for i, a in enumerate(INDEX[:4]) for b in INDEX[i + 1 : 4]}
    assert drawn == pairs, "each pair, in the order of the ranking"
    assert candidates.choose([INDEX], 2, (3, "q")) == candidates.choose([INDEX], 2, (3, "q"))
    assert len({tuple(candidates.choose([INDEX], 2, (0, f"q{i}"))) for i in range(60)}) == len(pairs)


def test_evaluations_take_the_first_of_a_sampled_source():
    assert Candidates("index", "sampled", num_from_each=4).choose([INDEX], 2) == [9, 7]


@pytest.mark.parametrize(
    ("settings", "found"), [(("index",), 6), (("index", "first", 9), 9), (("both", "sampled", 3), 6)]
)
def test_how_many_are_sought(settings, found):
    assert Candidates(*settings).num_to_find(6, 100) == found
    assert Candidates(*settings).num_to_find(6, 6) == 6


def test_too_few_of_each_are_refused():
    with pytest.raises(ValueError, match="num_from_each=2 of each source cannot give 5 candidates"):
        Candidates("both", num_from_each=2).num_to_find(5, 100)
    with pytest.raises(ValueError, match="num_from_each is 0"):
        Candidates(num_from_each=0)
    with pytest.raises(ValueError, match="choose one of: index, bm25, both"):
        Candidates("tfidf")


def test_others_are_those_that_are_not_own_and_each_once():
    # what a passage holds counts, and not what it is called
    found = [
        [Passage(f"{place}{text}", "", text) for text in of] for place, of in enumerate(("ab", "bc", "cd"))
    ]
    expected = [
        [[0, 0], [0, 1], [0, 1]],
        [[1, 0], [0, 0], [0, 1]],
        [[1, 1], [0, 0], [0, 0]],
    ]
    assert other_passages(found, found).int().tolist() == expected
    assert other_passages(found[1:2], found).int().tolist() == expected[1:2], "of another process's share"


class TestInTheModule:
    def module(self, folder, **settings):
        module = toy_module(folder, num_passages=4, **settings)
        module.index = build_index(module.retriever, module.knowledge_base)
        return module

    def test_both_sources_are_asked(self, tmp_path):
        plain = self.module(tmp_path)
        bm25 = BM25Index.build(plain.knowledge_base)
        module = self.module(tmp_path, candidates=Candidates("both"), bm25=bm25)
        questions = toy_questions()[:3]
        by_index = plain.retrieve(questions, 4)
        rows = bm25.search([question.text for question in questions], 4)[1]
        by_words = [module.knowledge_base.select(found) for found in rows.tolist()]
        by_turns = [
            [x for pair in zip(*both, strict=True) for x in pair]
            for both in zip(by_words, by_index, strict=True)
        ]
        expected = [list(dict.fromkeys(found))[:4] for found in by_turns]
        assert module.retrieve_candidates(questions) == expected
        assert module.retrieve(questions, 4) == by_index, "what is evaluated is the index's"

    def test_bm25_alone_needs_no_index(self, tmp_path):
        bm25 = BM25Index.build(self.module(tmp_path).knowledge_base)
        module = toy_module(tmp_path, candidates=Candidates("bm25"), bm25=bm25, num_passages=3)
        found = module.retrieve_candidates(toy_questions()[:2])
        assert [passages[0].title for passages in found] == ["France", "Japan"]

    def test_bm25_must_be_there(self, tmp_path):
        with pytest.raises(ValueError, match="candidates=both needs the BM25 index"):
            toy_module(tmp_path, candidates=Candidates("both"))

    def test_bm25_is_measured_for_a_question_that_has_the_id_of_another_split(self, tmp_path):
        """Files without ids number their lines, so that the first test question has the first one's id."""
        module = self.module(tmp_path)
        module.bm25 = BM25Index.build(module.knowledge_base)
        module.take_to_read = lambda number: 0
        found, never = toy_questions()[0], replace(toy_questions()[1], id="q0", answers=("nowhere",))
        for question, hit_rate in ((found, 1.0), (never, 0.0), (found, 1.0)):
            module.evaluate([question])
            assert module.bm25_hit_rate.compute()["hr_at_5"] == hit_rate
            module.bm25_hit_rate.reset()

    def test_bm25_is_measured_among_the_rows_that_the_index_holds(self, tmp_path):
        """Each part of the passages by itself, and not as the first one that was searched."""
        module = self.module(tmp_path)
        bm25 = module.bm25 = BM25Index.build(module.knowledge_base)
        for rows, rank in ((range(24), 0), (range(4, 24), -1), (range(24), 0), (None, 0)):
            module.searched_rows = None if rows is None else np.array(rows)
            assert module._first_hits_of_bm25(toy_questions()[:1], bm25).tolist() == [rank]

    @torch.no_grad()
    def test_evaluations_read_candidates_and_answer_from_what_is_found(self, tmp_path):
        module = self.module(tmp_path)
        module.candidates = Candidates("bm25")
        module.bm25 = BM25Index.build(module.knowledge_base)
        module.eval()
        questions = toy_questions()[:2]
        seen = []
        generate = module.reader.generate
        module.reader.generate = lambda batch, *rest: seen.append(batch) or generate(batch, *rest)
        module.take_to_read = lambda number: number
        evaluation = module.evaluate(questions)
        assert evaluation.read is not None
        assert evaluation.read.batch.passages == module.retrieve_candidates(questions)
        assert evaluation.passages == module.retrieve(questions, 5)
        assert seen[0].passages == module.retrieve(questions, 4)

    def test_fixed_ones_stay_while_the_retriever_learns(self, tmp_path):
        seen = {True: [], False: []}
        for are_fixed, found in seen.items():
            module = self.module(tmp_path, candidates=Candidates(are_fixed=are_fixed))
            start = module.retrieve_candidates(toy_questions())
            step = module._batch_of_step

            def keep(questions, batch_idx, step=step, found=found):
                batch = step(questions, batch_idx)
                found.append((batch.questions, batch.passages))
                return batch

            module._batch_of_step = keep
            trainer = toy_trainer(tmp_path, [], max_steps=12)
            trainer.fit(module, toy_datamodule())
            by_id = dict(zip((q.id for q in toy_questions()), start, strict=True))
            unmoved = [by_id[q.id] == p for qs, ps in found for q, p in zip(qs, ps, strict=True)]
            assert all(unmoved) == are_fixed
            moved = module.retrieve_candidates(toy_questions())
            assert moved != start, "what evaluations find follows the retriever"
        checkpoint = {"state_dict": module.state_dict()}
        module.candidates = Candidates(are_fixed=True)
        module._fixed_candidates = {"q0": [[1, 2, 3, 4]]}
        module.on_save_checkpoint(checkpoint)
        other = self.module(tmp_path, candidates=Candidates(are_fixed=True))
        other.on_load_checkpoint(checkpoint)
        assert other._fixed_candidates == {"q0": [[1, 2, 3, 4]]}

    def test_fixed_ones_need_the_training_questions(self, tmp_path):
        module = self.module(tmp_path, candidates=Candidates(are_fixed=True))
        data, trainer = toy_datamodule(), toy_trainer(tmp_path, [])
        with pytest.raises(ValueError, match="fit with a "):
            trainer.fit(module, data.train_dataloader(), data.val_dataloader())

"""The order of questions: what is seeded, by what, and that a resumed run goes on where it stopped."""

import copy

import pytest
import torch

from datamodules.batches import Question
from datamodules.errors import DataError
from datamodules.qa_datamodule import QuestionDataModule

QUESTIONS = [Question(f"q{i}", f"what is {i}", (str(i),)) for i in range(20)]


def datamodule(**settings):
    return QuestionDataModule(
        **{"train": QUESTIONS, "validation": QUESTIONS, "test": QUESTIONS[:7], **settings}
    )


def ids(loader):
    return [[question.id for question in batch] for batch in loader]


def flat(batches):
    return [name for batch in batches for name in batch]


def test_training_order_is_the_seeds():
    first = ids(datamodule(batch_size=4, seed=3).train_dataloader())
    assert [len(batch) for batch in first] == [4] * 5
    assert sorted(flat(first)) == sorted(question.id for question in QUESTIONS)
    assert first == ids(datamodule(batch_size=4, seed=3).train_dataloader())
    assert first != ids(datamodule(batch_size=4, seed=4).train_dataloader())
    assert flat(first) != [question.id for question in QUESTIONS]


def test_epochs_differ():
    loader = datamodule(seed=3).train_dataloader()
    assert ids(loader) != ids(loader)


def test_global_random_state_does_not_matter():
    torch.manual_seed(0)
    first = ids(datamodule().train_dataloader())
    torch.manual_seed(1)
    assert ids(datamodule().train_dataloader()) == first


@pytest.mark.parametrize("stage", ["val", "test"])
def test_evaluation_order_is_one_permutation_for_all_training_seeds(stage):
    def order(**settings):
        return ids(getattr(datamodule(**settings), f"{stage}_dataloader")())

    first = order(evaluation_batch_size=3)
    questions = QUESTIONS if stage == "val" else QUESTIONS[:7]
    assert flat(first) != [question.id for question in questions], "the first n are to be a random sample"
    assert sorted(flat(first)) == sorted(question.id for question in questions)
    assert {len(batch) for batch in first[:-1]} == {3}
    assert order(evaluation_batch_size=3, seed=99) == first
    assert order(evaluation_batch_size=3, evaluation_seed=1) != first
    loader = datamodule().val_dataloader()
    assert ids(loader) == ids(loader), "every validation sees the same order"


@pytest.mark.parametrize("num_before", [0, 1, 3, 4])
def test_training_resumes_in_mid_epoch(num_before):
    whole = datamodule(batch_size=4, seed=5).train_dataloader()
    iterator, state, taken = iter(whole), None, []
    for _ in range(num_before):
        taken.append([question.id for question in next(iterator)])
    state = copy.deepcopy(whole.state_dict())
    rest = ids(iterator)
    following = ids(whole)
    # a new process: same seed, new loader
    resumed = datamodule(batch_size=4, seed=5).train_dataloader()
    resumed.load_state_dict(state)
    assert ids(resumed) == rest
    assert ids(resumed) == following, "the epochs after it are those of the uninterrupted run too"
    assert len(taken) + len(rest) == 5


def test_an_incomplete_last_batch_is_dropped_unless_it_is_the_only_one():
    assert [len(b) for b in ids(datamodule(batch_size=8).train_dataloader())] == [8, 8]
    assert [len(b) for b in ids(datamodule(batch_size=32).train_dataloader())] == [20]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_an_empty_split_is_refused(split):
    with pytest.raises(DataError, match=rf"the {split} split has no questions; set {split} to one"):
        datamodule(**{split: []})
    assert datamodule(train=[]).train == []


def test_questions_stay_as_they_are_on_any_device():
    batch = QUESTIONS[:2]
    assert datamodule().transfer_batch_to_device(batch, torch.device("meta"), 0) is batch


def test_questions_are_left_out_of_training_wherever_they_are_asked():
    again = Question("again", "What  is 3", ("three",))
    module = datamodule(train=[*QUESTIONS, again])
    module.leave_out([QUESTIONS[3], QUESTIONS[5]])
    assert [question.id for question in module.train] == [f"q{i}" for i in range(20) if i not in (3, 5)]
    assert QUESTIONS[3] in module.validation
    with pytest.raises(DataError, match="all 18 training questions are left out"):
        module.leave_out(QUESTIONS)
    assert len(module.train) == 18

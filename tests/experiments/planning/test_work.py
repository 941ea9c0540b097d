"""What a run does, counted by hand."""

import pytest

from experiments.config import load_config
from experiments.planning.machines import named_machine
from experiments.planning.setup import Setup, describe
from experiments.planning.work import count_work, indices_of_run, refresh_steps


def setup_of(name: str, *overrides: str) -> Setup:
    return describe(load_config(name, overrides), named_machine("a100-80gb", 128, None, 1))


def test_offshelf_nq():
    work = count_work(setup_of("offshelf_nq"))
    assert work.refresh_steps == (500, 1000, 3000, 5000, 7000, 9000)
    assert work.final_encodings == 1
    # the start's, and one each 2,000 of 160,000 steps
    assert (work.num_validations, work.part_passages) == (81, 1_000_000)
    assert (work.num_steps, work.questions_a_step, work.taught_questions) == (160_000, 1, 0)
    # its own pass teaches; validations also read the start's passages again
    assert (work.validation_questions, work.validation_read) == (81_000, 162_000)
    assert (work.num_tests, work.test_questions, work.test_read) == (2, 2 * 3610, 2000)


def test_a_frozen_reader_that_keeps_what_it_reads():
    """160 questions with fixed candidates, each with its first answer, are read once in 150 steps of 4."""
    size = ["data.max_train=160", "data.batch_size=4", "evaluation.num_read=12"]
    size += ["trainer.max_steps=150", "trainer.validate_every_steps=75"]
    work = count_work(setup_of("quickstart", *size))
    assert (work.num_steps * work.questions_a_step, work.taught_questions) == (600, 160)
    assert work.fixed_questions == 160
    assert work.num_validations == 3
    # 12 at the start, and what is new of them at two more
    assert work.validation_read == pytest.approx(12 * (1 + 0.4 * 2))
    assert work.validation_answered == 0, "generate_in_validation is off"
    read_anew = count_work(setup_of("quickstart", *size, "reader.read_once=false"))
    assert (read_anew.taught_questions, read_anew.validation_read) == (600, 36)


@pytest.mark.parametrize(
    ("name", "overrides", "steps"),
    [
        ("step2_nq", [], (500, 1000, 3000, 5000)),
        ("step1_nq", ["index.refresh='500'"], ()),
        ("checkpoint_nq", [], ()),
        ("step2_nq", ["index.refresh='-1'"], ()),
        ("step2_nq", ["index.refresh='2000'"], (2000, 4000, 6000)),
        ("step2_nq", ["index.refresh='2000'", "trainer.validate_every_steps=4000"], (2000, 4000)),
        ("step2_nq", ["index.refresh=when_stale", "trainer.validate_every_steps=3000"], (3000, 6000)),
        ("step2_nq", ["retriever.tied=false", "retriever.train_passage_encoder=false"], ()),
        (
            "step2_nq",
            ["index.refresh='-1'", "index.refresh_before_validation=true", "trainer.max_steps=1100"],
            (500, 1000),
        ),
    ],
)
def test_when_the_index_is_made_anew(name, overrides, steps):
    """A refresh at the last step is done only where a validation follows it."""
    assert refresh_steps(setup_of(name, *overrides)) == steps


@pytest.mark.parametrize(
    ("name", "overrides", "most"),
    [
        ("checkpoint_nq", [], 0),
        ("step2_nq", ["index.refresh='-1'"], 1),
        # that of the last checkpoint stays while another is made
        ("offshelf_nq", [], 2),
        ("offshelf_nq", ["index.refresh='0-600:500'"], 2),
        # no checkpoint before the final test's
        ("offshelf_nq", ["index.refresh='0-600:500'", "trainer.checkpoint_every_steps=200000"], 1),
    ],
)
def test_how_many_indices_are_there_at_a_time(name, overrides, most):
    assert indices_of_run(setup_of(name, *overrides)) == most


def test_likelihoods_are_read_beside_the_readers_own_pass():
    """T5 has dropout, and its likelihoods of each passage alone are passes of their own."""
    assert count_work(setup_of("perplexity_nq")).taught_questions == 20_000
    assert count_work(setup_of("atlas_large_nq")).taught_questions == 10_000
    assert count_work(setup_of("atlas_large_nq", "objective.name=uniform")).taught_questions == 0

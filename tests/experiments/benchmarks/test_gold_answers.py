"""The comparison of answers with and without solved examples, in small."""

from experiments.benchmarks.gold_answers import main
from tests.toy_files import as_overrides, toy_settings, write_questions


def settings_of(tmp_path):
    questions = {"train": range(12), "validation": range(0, 8, 2), "test": range(1, 8, 2)}
    files = {
        f"data__{split}": write_questions(tmp_path / f"{split}-titled.jsonl", indices, with_titles=True)
        for split, indices in questions.items()
    }
    return toy_settings(tmp_path, **files)


def test_every_number_of_examples_is_asked_with_the_same_questions(capsys, tmp_path):
    settings = as_overrides(settings_of(tmp_path))
    assert main([*settings, "--questions", "3", "--num-examples", "0", "2"]) == 0
    without, two = capsys.readouterr().out.splitlines()[-2:]
    assert without.startswith("0 examples (0 tokens): EM 0.00 ")
    assert two.startswith("2 examples (")
    assert all("over 3 questions, " in line for line in (without, two))


def test_questions_without_gold_passages_are_refused(capsys, tmp_path):
    settings = {**settings_of(tmp_path), "data.test": tmp_path / "test.jsonl"}
    assert main(as_overrides(settings)) == 2
    assert "error: data.test=" in capsys.readouterr().err

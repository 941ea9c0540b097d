"""What is printed of an analysis: metrics, and the tokens that get the attention."""

import io

import pytest
from rich.console import Console

from datamodules.token_file import TokenFile, TokenFileWriter
from datamodules.token_units import TokenUnit
from experiments.show.tokens import print_analysis, shaded, top_tokens
from lightning_modules.token_analysis import AnalysisSettings, analyse

INFO = {
    "experiment": "toy",
    "split": "test",
    "weights": "start",
    "seed": 0,
    "num_passages": 2,
    "percentiles": [50],
    "attention_normalization": "passage",
    "token_embeddings": "input",
    "answer_match": "tokens",
}


def unit(rank=0, texts=(" Peru", " has", " Li", "ma", "."), scores=(1.0, 0.5, 6.0, 2.0, 0.5)) -> TokenUnit:
    similarity = [0.1 * token for token in range(len(texts))] or None
    return TokenUnit(
        question_id="q0",
        question="what is [the] capital of Peru",
        answers=["Lima"],
        answer="Lima",
        rank=rank,
        passage_id=f"p{rank}",
        title="Peru [country]",
        holds_answer_tokens=rank == 0,
        holds_answer_substring=False,
        p_attn=0.75 if rank == 0 else 0.25,
        log_p_attn=-0.287682 if rank == 0 else -1.386294,
        p_retr=0.5,
        token_ids=list(range(len(texts))),
        token_texts=texts,
        token_scores=scores,
        prompt_total=20.0,
        answer_similarity_input=similarity,
        answer_similarity_contextual=similarity,
        noun_similarity_input=None,
        noun_similarity_contextual=None,
    )


def printed(tmp_path, units, saved=None, **changes) -> str:
    with TokenFileWriter(tmp_path / "tokens.parquet", INFO) as writer:
        writer.write(units)
    file = TokenFile(tmp_path / "tokens.parquet")
    analysis = analyse(file, AnalysisSettings.of(INFO, **changes))
    console = Console(width=100, file=io.StringIO(), highlight=False)
    print_analysis(analysis, file, 1, saved, console=console)
    return console.file.getvalue()


def test_metrics_and_questions(tmp_path):
    shown = printed(tmp_path, [unit(0), unit(1, (), ())], [tmp_path / "metrics.json"])
    assert "toy, 1 test questions, weights at the start (seed 0)" in shown
    for label in (
        "Indicator 1 Spearman p50",
        "Indicator 2 attention p50",
        "Indicator 2 lift p50",
        "teacher AUC",
        "95% interval",
    ):
        assert label in shown
    [teacher] = [line for line in shown.splitlines() if "teacher AUC" in line]
    assert "1.000" in teacher
    [lift] = [line for line in shown.splitlines() if "Indicator 1 lift" in line]
    # the last three of five tokens, 8.5 of a score of 10 over 3, against 10 over 5
    assert "1.417" in lift
    [nouns] = [line for line in shown.splitlines() if "Indicator 2 Spearman" in line]
    assert nouns.endswith("1 passage "), "the passage of which nothing was seen does not count"
    assert "what is [the] capital of Peru  answers: Lima" in shown
    assert "1  p_ATTN 0.750  p_RETR 0.500  answer  Peru [country]" in shown
    assert "Li* 60.0%, ma* 20.0%, Peru 10.0%" in shown
    assert f"metrics:   {tmp_path / 'metrics.json'}" in shown


def test_a_hit_is_one_by_the_rule_asked_for(tmp_path):
    assert "answer  Peru" not in printed(tmp_path, [unit(0), unit(1)], match="substring")


def test_top_tokens_are_the_most_attended_first():
    assert top_tokens(unit()).strip() == "Li* 60.0%, ma* 20.0%, Peru 10.0%, has 5.0%, . 5.0%"
    assert top_tokens(unit(texts=(), scores=())).strip() == ""


def test_shades_follow_the_attention():
    text = shaded(unit(), 60)
    assert text.plain.strip() == "Peru has Lima."
    styles = {text.plain[span.start : span.end]: str(span.style) for span in text.spans}
    assert set(styles) == {" Peru", " Li", "ma"}
    assert "underline" in styles[" Li"]
    assert "underline" in styles["ma"]
    assert "underline" not in styles[" Peru"]
    assert len({styles[" Li"], styles["ma"], styles[" Peru"]}) == 3


@pytest.mark.parametrize("width", [5, 12, 60])
def test_the_part_with_the_most_attention_is_shown(width):
    texts = tuple(f" t{token:02}" for token in range(40))
    scores = tuple(9.0 if token == 31 else 0.1 for token in range(40))
    text = shaded(unit(texts=texts, scores=scores), width)
    assert "t31" in text.plain
    assert len(text.plain.strip()) <= width


def test_tokens_longer_than_a_line_are_passed_over():
    text = shaded(unit(texts=(" " + "x" * 80, " short"), scores=(9.0, 1.0)), 20)
    assert text.plain.strip() == "short"

"""What Vital QA must satisfy as a whole.  Pure functions: splits -> faults."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from datamodules.answer_matching import dpr_tokens
from datamodules.vital.entries import Article, Entry, Fault, fault_of
from datamodules.vital.question_rules import content_words, question_kind

WHOLE_SET = "all splits"


@dataclass(frozen=True)
class Limits:
    """What the set is held to; shares are of all questions.

    Attributes:
        sizes: questions in each split.
        tiny_size: questions in tiny.jsonl, all of them from train.
        kind_share: the commonest kind of question may have at most this.
        title_share: at most this much of the answers may be the article's title.
        topic_tolerance: a topic's share may differ from its share of the corpus by this.
        gold_passages: at least so many different ones.
        duplicate_similarity: questions this similar are near-duplicates (see `question_grams`).
        same_answer_similarity: the same for two questions that share an answer.
    """

    sizes: Mapping[str, int] = field(default_factory=lambda: {"train": 1600, "validation": 300, "test": 500})
    tiny_size: int = 64
    kind_share: float = 0.35
    title_share: float = 0.30
    topic_tolerance: float = 0.01
    gold_passages: int = 2000
    duplicate_similarity: float = 0.5
    same_answer_similarity: float = 0.25


Splits = Mapping[str, Sequence[Entry]]


def set_faults(
    splits: Splits, tiny: Sequence[Entry], articles: Mapping[str, Article], limits: Limits
) -> list[Fault]:
    """Everything that is wrong with the set as a whole."""
    entries = [entry for split in splits.values() for entry in split]
    return [
        *size_faults(splits, limits.sizes),
        *tiny_faults(tiny, splits["train"], limits.tiny_size),
        *gold_passage_faults(splits, limits.gold_passages),
        *near_duplicate_faults(entries, limits.duplicate_similarity, limits.same_answer_similarity),
        *share_faults(entries, articles, limits),
    ]


def size_faults(splits: Splits, sizes: Mapping[str, int]) -> Iterator[Fault]:
    """Splits that have more or fewer questions than `sizes` says."""
    for name, size in sizes.items():
        if len(splits[name]) != size:
            yield Fault(f"{name}.jsonl", 0, f"{len(splits[name])} questions; there must be {size}")


def tiny_faults(tiny: Sequence[Entry], train: Sequence[Entry], size: int) -> Iterator[Fault]:
    """Whether tiny.jsonl holds `size` different questions of train, word for word."""
    if len(tiny) != size:
        yield Fault("tiny.jsonl", 0, f"{len(tiny)} questions; there must be {size}")
    left = {_content(entry) for entry in train}
    for entry in tiny:
        if _content(entry) not in left:
            yield fault_of(entry, "not a line of train.jsonl, or given twice")
        left.discard(_content(entry))


def gold_passage_faults(splits: Splits, at_least: int) -> Iterator[Fault]:
    """Gold passages that two splits share, or too few different ones."""
    split_of: dict[str, str] = {}
    for name, entries in splits.items():
        for entry in entries:
            if split_of.setdefault(entry.title, name) != name:
                yield fault_of(entry, f"the gold passage {entry.title!r} is in {split_of[entry.title]} too")
    if len(split_of) < at_least:
        yield Fault(WHOLE_SET, 0, f"{len(split_of)} different gold passages; there must be {at_least}")


def near_duplicate_faults(
    entries: Sequence[Entry], threshold: float, same_answer_threshold: float
) -> Iterator[Fault]:
    """Pairs of questions, in one split or two, at least as similar as the threshold for their answers."""
    holders: dict[str, list[int]] = defaultdict(list)
    grams = [question_grams(entry.question) for entry in entries]
    answers = [{answer.lower() for answer in entry.answers} for entry in entries]
    for place, entry in enumerate(entries):
        shared = Counter(other for gram in grams[place] for other in holders[gram])
        for other, num_shared in shared.items():
            needed = threshold if answers[place].isdisjoint(answers[other]) else same_answer_threshold
            if num_shared >= needed * (len(grams[place]) + len(grams[other]) - num_shared):
                twin = entries[other]
                yield fault_of(entry, f"near-duplicate of {twin.file}, line {twin.line}: {twin.question!r}")
        for gram in grams[place]:
            holders[gram].append(place)


def question_grams(question: str) -> frozenset[str]:
    """The runs of four characters in the question's sorted content words, spaces included.

    Near-duplicates are told by the Jaccard similarity of these sets: function words, word order and endings
    count little.  A question of stop words only is its own single gram.
    """
    text = f" {' '.join(sorted(content_words(question)))} "
    if not text.strip():
        return frozenset([question.lower()])
    return frozenset(text[start : start + 4] for start in range(max(1, len(text) - 3)))


def share_faults(
    entries: Sequence[Entry], articles: Mapping[str, Article], limits: Limits
) -> Iterator[Fault]:
    """Kinds, title answers and topics outside their limits."""
    num = max(1, len(entries))
    for kind, count in kind_counts(entries).items():
        if count > limits.kind_share * num:
            yield _share_fault(f"{kind!r} questions are", count / num, f"at most {limits.kind_share:.0%}")
    num_titles = sum(map(is_title_answer, entries))
    if num_titles > limits.title_share * num:
        yield _share_fault(
            "the title is the answer of", num_titles / num, f"at most {limits.title_share:.0%}"
        )
    counts = Counter(entry.topic for entry in entries)
    for topic, expected in topic_shares(articles).items():
        if not counts[topic] or abs(counts[topic] / num - expected) > limits.topic_tolerance:
            allowed = f"{expected:.1%} as in the corpus, give or take {limits.topic_tolerance:.1%}"
            yield _share_fault(f"topic {topic!r} is", counts[topic] / num, allowed)


def kind_counts(entries: Sequence[Entry]) -> Counter[str]:
    """Questions of each kind, see `question_kind`."""
    return Counter(question_kind(entry.question) for entry in entries)


def topic_shares(articles: Mapping[str, Article]) -> dict[str, float]:
    """Share of the corpus's passages that each topic has, by name."""
    counts = Counter(article.topic for article in articles.values())
    return {topic: counts[topic] / len(articles) for topic in sorted(counts)}


def is_title_answer(entry: Entry) -> bool:
    """Whether one of the answers is the article's title."""
    return any(dpr_tokens(answer) == dpr_tokens(entry.title) for answer in entry.answers)


def _share_fault(what: str, share: float, allowed: str) -> Fault:
    return Fault(WHOLE_SET, 0, f"{what} {share:.1%}; must be {allowed}")


def _content(entry: Entry) -> tuple[str, tuple[str, ...], str, str]:
    return entry.question, entry.answers, entry.title, entry.topic

"""The model card of a run's retriever: what it learnt from, what that brought, what nobody tested."""

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCardData

from datamodules.durable_files import write_durably
from datamodules.sealed_files import DamagedFileError, read_json
from datamodules.sources import question_split
from datamodules.vital import VITAL
from experiments.config import ExperimentConfig, read_config
from experiments.models import EMBEDDED, is_of_hub
from experiments.runs import SUITE, RunFolder, read_first_hits
from experiments.show.decisions import describe_kept, kept_start
from experiments.show.report_rows import flatten
from experiments.show.verdicts import settings_of_verdict
from lightning_modules.metrics.estimates import Estimate, estimate
from lightning_modules.metrics.measures import PASSAGE_WORDS, hit_rate_measure
from lightning_modules.objectives import OBJECTIVES, Signals

log = logging.getLogger(__name__)

CARD = "README.md"
_HUB_NAMES = {
    "reader": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "retriever": "sentence-transformers/all-MiniLM-L6-v2",
}
"""What the embedded models are called on the hub."""


class Result(NamedTuple):
    """A Hit Rate of the start and of the end, and their paired difference."""

    label: str
    before: Estimate
    after: Estimate
    change: Estimate


def write_model_card(run: RunFolder, summary: Mapping[str, Any]) -> Path:
    """Writes README.md beside a run's retriever, from what the run's folder holds.

    Args:
        run: which trained the retriever.
        summary: of the run, which need not be in its folder yet.

    Raises:
        DataError: the predictions are damaged, or the card cannot be written.
    """
    path = run.retriever / CARD
    write_durably(path, make_model_card(run, summary))
    return path


def make_model_card(run: RunFolder, summary: Mapping[str, Any]) -> str:
    """The card: metadata of the Hugging Face hub, and the text."""
    config = read_config(run.config)
    before, after = (read_first_hits(path) for path in (run.predictions_start, run.predictions))
    results = list(_hit_rates(config, before, after))
    verdict = newest_verdict(run.read_asked(config)) or "none (`experiments.probe`)"
    blocks = [
        f"# Retriever of the run {run.path.name}",
        _introduction(config, summary),
        "## Use",
        _use(config),
        "## Training",
        _bullets(_training(config, run, summary)),
        "## Hit Rate",
        _hit_rate_table(config, results),
        _bullets([_words(summary), _length(run), f"pre-flight check of the teacher: {verdict}"]),
        "## Not tested",
        _bullets(_untested(config)),
    ]
    return f"---\n{_metadata(config, run, results)}\n---\n\n" + "\n\n".join(blocks) + "\n"


def _introduction(config: ExperimentConfig, summary: Mapping[str, Any]) -> str:
    if kept_start(config, summary):
        return (
            "This is the retriever that the run started from, with none of its training: no checkpoint beat "
            "the start, so the starting weights were kept."
        )
    if config.objective.scores_from is not None:
        return "Trained without relevance labels, on scores that another teacher gave passages."
    return (
        f"Trained without relevance labels: what the reader {_name(config, 'reader')} makes of retrieved "
        "passages is what this retriever learnt (attention distillation, arXiv 2402.11794, or a relative)."
    )


def _use(config: ExperimentConfig) -> str:
    lines = [
        "```python",
        "from sentence_transformers import SentenceTransformer",
        "",
        'model = SentenceTransformer("THIS FOLDER OR REPOSITORY")',
        'queries = model.encode_query(["who wrote Faust?"])',
        'passages = model.encode_document(["Faust Faust is a play by Goethe."])  # "title text"',
        "scores = model.similarity(queries, passages)",
        "```",
    ]
    return "\n".join(lines)


def _training(config: ExperimentConfig, run: RunFolder, summary: Mapping[str, Any]) -> Iterator[str]:
    layers = config.retriever.num_layers
    yield f"started from: {_name(config, 'retriever')}" + (f", its first {layers} layers" if layers else "")
    if config.init.retriever_from is not None:
        yield f"with weights of an earlier run: {config.init.retriever_from}"
    if config.objective.scores_from is None:
        yield f"reader: {_name(config, 'reader')}" + (
            ", trained too" if config.training.train_reader else ", frozen"
        )
        yield f"objective: {_objective(config)}, {config.training.num_passages} candidates a question"
        if config.reader.attention_heads is not None and OBJECTIVES[config.objective.name].uses_attention:
            yield f"attention heads: {config.reader.attention_heads}"
    else:
        yield f"teacher: the scores in {config.objective.scores_from}"
    if config.objective.in_batch:
        yield "further negatives: the candidates of the batch's other questions"
    yield f"questions: {config.data.train}; passages: {config.data.passages}"
    yield f"ended because: {summary['stopped']}; {describe_kept(summary)}"
    yield f"seed: {config.seed}"
    environment = _read(run.environment)
    if environment is not None:
        revision = environment.get("git_revision")
        version = environment["packages"].get(SUITE, "from source")
        yield f"suite: {SUITE} {version}" + (f", revision {revision[:12]}" if revision else "")
        yield f"command: `{shlex.join(['python', '-m', 'experiments.run', *environment['command'][1:]])}`"


def _objective(config: ExperimentConfig) -> str:
    """By its name; signals with their weights too."""
    name = config.objective.name
    if name != Signals.name:
        return name
    return f"{name} {Signals(signals=asdict(config.objective.signals)).details[0]}"


def _read(path: Path) -> dict[str, Any] | None:
    """A JSON file that the card can do without: a run is not lost for it."""
    try:
        return read_json(path)
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        log.warning("%s; the model card does without", error)
        return None


def _hit_rates(
    config: ExperimentConfig, before: Mapping[str, int | None], after: Mapping[str, int | None]
) -> Iterator[Result]:
    """Of each K that the tests measured, over the questions of both."""
    questions = [question for question in after if question in before]
    for k in config.evaluation.hit_rate_ks:
        start, end = (
            [float(rank is not None and rank < k) for rank in (ranks[question] for question in questions)]
            for ranks in (before, after)
        )
        change = [now - then for now, then in zip(end, start, strict=True)]
        yield Result(hit_rate_measure(k).label, estimate(start), estimate(end), estimate(change))


def _hit_rate_table(config: ExperimentConfig, results: Sequence[Result]) -> str:
    lines = ["| | before | after | difference [95%] |", "|---|---|---|---|"]
    for label, *estimates, change in results:
        start, end = (f"{of.mean:.3f} [{of.low:.3f}, {of.high:.3f}]" for of in estimates)
        difference = f"{change.mean:+.3f} [{change.low:+.3f}, {change.high:+.3f}]"
        lines.append(f"| {label} | {start} | {end} | {difference} |")
    num_questions = results[0].after.n
    lines += [
        "",
        f"{num_questions} held-out test questions ({config.data.test}), one seed, 95% intervals over "
        "questions.",
    ]
    return "\n".join(lines)


def _words(summary: Mapping[str, Any]) -> str:
    words = summary[PASSAGE_WORDS.name]
    return f"{PASSAGE_WORDS.label}: {words['before']:.0f} before, {words['after']:.0f} after"


def _length(run: RunFolder) -> str:
    found = _read(run.length_control)
    if found is None:
        return "how much of the gain passage length explains: not looked at (`experiments.control_length`)"
    gain, by_length, beyond = (found[name] for name in ("gain", "by_length", "beyond_length"))
    return (
        f"of the gain of {gain['mean']:+.3f} in Hit Rate@{found['k']}, a bonus for length alone explains "
        f"{by_length['mean']:+.3f}; beyond length it is {beyond['mean']:+.3f} [{beyond['low']:+.3f}, "
        f"{beyond['high']:+.3f}]"
    )


def newest_verdict(config: ExperimentConfig) -> str | None:
    """What the newest check of the same teacher advises, and why; None = nobody has made one.

    Args:
        config: of a run as it was asked for, since a check knows no more of what it checks.
    """
    asked = settings_of_verdict(flatten(config))
    for path in sorted(Path(config.runs).glob(f"probes/{config.name}/*/probe.json"), reverse=True):
        probe = _read(path)
        if probe is not None and settings_of_verdict(flatten(probe["config"])) == asked:
            verdict = probe["result"]["verdict"]
            reasons = "; ".join(verdict["reasons"])
            return f"{verdict['advice']} ({reasons})"
    return None


def _untested(config: ExperimentConfig) -> Iterator[str]:
    yield f"other questions than {config.data.test}, other passages than {config.data.passages}"
    yield "what distillation cost elsewhere (`python -m experiments.evaluate RUN --on SET` says it)"
    yield "other languages; other seeds than this one"
    if config.scale == EMBEDDED:
        yield "anything at full size: corpus and models are small"


def _metadata(config: ExperimentConfig, run: RunFolder, results: Sequence[Result]) -> str:
    dataset = "Vital QA" if config.data.test == VITAL else config.data.test
    data = ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag="sentence-similarity",
        tags=["sentence-transformers", "feature-extraction", "retrieval", "attention-distillation"],
        base_model=_hub_name(config, "retriever"),
        datasets=_hub_datasets(config),
        model_name=f"{config.name} {run.path.name}",
        eval_results=[
            EvalResult(
                task_type="information-retrieval",
                dataset_type=Path(dataset).name.lower().replace(" ", "-"),
                dataset_name=dataset,
                dataset_split="test",
                metric_type=result.label.lower().replace(" ", "_"),
                metric_name=result.label,
                metric_value=round(result.after.mean, 4),
            )
            for result in results
        ],
    )
    return data.to_yaml()


def _name(config: ExperimentConfig, what: str) -> str:
    return _hub_name(config, what) or str(getattr(config, what).name)


def _hub_name(config: ExperimentConfig, what: str) -> str | None:
    """On the hub, without a revision; None where the model is of elsewhere."""
    name: str = getattr(config, what).name
    if name == EMBEDDED:
        return _HUB_NAMES[what]
    return name.partition("@")[0] if is_of_hub(name) else None


def _hub_datasets(config: ExperimentConfig) -> list[str] | None:
    published = question_split(config.data.train)
    return None if published is None else [published.hub.repository]


def _bullets(items: Sequence[str] | Iterator[str]) -> str:
    return "\n".join(f"- {item}" for item in items)

"""What no run can have is refused, and the message names the key and what it may be."""

import importlib.util
import typing

import pytest
import torch

from experiments import build, checks
from experiments.checks import check_config, doubts_about, monitors_of, thresholds_of
from experiments.config import SETTING, ConfigError, ExperimentConfig, all_fields, load_config
from experiments.each_setting import value_of
from lightning_modules.loading import ModelError

FIELDS = {key: item for key, item in all_fields() if SETTING in item.metadata}
CHOICES = {
    key: item.metadata[SETTING].choices for key, item in FIELDS.items() if item.metadata[SETTING].choices
}
NUMBERS = [key for key, item in FIELDS.items() if {int, float} & {item.type, *typing.get_args(item.type)}]
UNBOUNDED = {"stopping.target"}
WHOLE = [key for key in NUMBERS if int in {FIELDS[key].type, *typing.get_args(FIELDS[key].type)}]
TEXTS = [key for key, item in FIELDS.items() if {str, list[str]} & {item.type, *typing.get_args(item.type)}]
NEEDED = {
    "fsdp": ["trainer.devices=2", "trainer.accelerator=cpu"],
    "end_to_end": ["objective.in_batch=false"],
}
OF_TRAINED_READER = {"reader.lora_rank"}
READER = ("start_candidates/indicator1/spearman_p90", "start_candidates/teacher/auc")


def rules_of(key):
    return FIELDS[key].metadata[SETTING]


def check(*overrides):
    check_config(load_config("quickstart", overrides))


def as_override(key, value) -> str:
    is_list = typing.get_origin(FIELDS[key].type) is list
    return f"{key}=[50,{value}]" if is_list else f"{key}={value}"


def test_the_defaults_pass():
    check_config(ExperimentConfig(name="defaults"))


# ---- choices and bounds ----


@pytest.mark.parametrize("key", CHOICES)
def test_choices(key, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    known = CHOICES[key]()
    assert len(known) > 1
    written = "{}" if typing.get_origin(FIELDS[key].type) is not list else "[{}]"
    for name in known:
        # one that is trained has but one dtype, and is not sharded
        trains_reader = key not in ("reader.dtype", "trainer.strategy")
        check(
            f"{key}={written.format(name)}",
            f"training.train_reader={str(trains_reader).lower()}",
            *NEEDED.get(name, []),
        )
    with pytest.raises(ConfigError) as error:
        check(f"{key}={written.format('nonsense')}")
    assert str(error.value) == f"{key}='nonsense' is unknown; choose one of: {', '.join(known)}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["reader.lora_rank=8"],
            "reader.lora_rank=8 is how a reader is trained, and this one is frozen; set",
        ),
        (["reader.lora_alpha=8"], "reader.lora_alpha=8 scales LoRA matrices, and there are none; set"),
        (["reader.gradient_checkpointing=true"], "this one is frozen; set training.train_reader=true, or"),
    ],
)
def test_a_frozen_reader_has_no_settings_of_training(overrides, message):
    with pytest.raises(ConfigError, match=message):
        check(*overrides)
    check(*overrides, "reader.lora_rank=8", "training.train_reader=true")


def test_the_prompts_total_needs_scores_of_the_whole_prompt():
    of_prompt = ["evaluation.attention_normalization=prompt"]
    likelihoods = [*of_prompt, "objective.name=pdist"]
    with pytest.raises(
        ConfigError, match=r"token_drops=masked scores the .*set evaluation.token_drops=maske"
    ):
        check(*likelihoods)
    check(*of_prompt, "objective.name=adist")
    check(*likelihoods, "evaluation.token_drops=masked_prompt")
    check(*likelihoods, "evaluation.token_drops=gradient")
    check("objective.name=pdist")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["trainer.devices=1"],
            "it is one process; set trainer.devices to more than 1, or trainer.strategy=",
        ),
        (
            ["training.train_reader=true"],
            "a reader that is trained cannot be; set training.train_reader=false",
        ),
        (["objective.name=end_to_end", "objective.in_batch=false"], "objective.name=end_to_end needs a grad"),
        (["evaluation.token_drops=gradient"], "set evaluation.token_drops=masked, or trainer.strategy=ddp"),
        (["reader.family=fusion_in_decoder", "reader.num_examples=0"], "take a decoder-only reader, or"),
        (["evaluation.closed_book=true", "trainer.max_steps=0"], "a closed-book run cannot; measure in one"),
    ],
)
def test_what_cannot_be_sharded(overrides, message):
    sharded = ["trainer.strategy=fsdp", *NEEDED["fsdp"]]
    check(*sharded)
    with pytest.raises(ConfigError, match=message):
        check(*sharded, *overrides)
    check(*sharded, *overrides, "trainer.strategy=ddp")


def test_frozen_weights_beside_those_of_lora_may_have_few_bits():
    check("reader.dtype=bfloat16", "reader.lora_rank=8", "training.train_reader=true")


def test_lora_without_peft_is_refused_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"^reader.lora_rank: LoRA needs the package peft.* pip install"):
        check("reader.lora_rank=8", "training.train_reader=true")


def test_every_number_has_a_bound():
    assert {key for key in NUMBERS if not rules_of(key).is_bounded} == UNBOUNDED
    assert all(key in NUMBERS for key in FIELDS if rules_of(key).is_bounded)


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
def test_numbers_are_finite(key, value):
    with pytest.raises(ConfigError) as error:
        check(as_override(key, value))
    assert key in str(error.value)


@pytest.mark.parametrize("key", [key for key in NUMBERS if key not in UNBOUNDED])
def test_numbers_are_within_bounds(key):
    rules = rules_of(key)
    beyond = [(rules.at_least, -1), (rules.above, 0), (rules.at_most, 1), (rules.below, 0)]
    for value in [bound + step for bound, step in beyond if bound is not None]:
        with pytest.raises(ConfigError, match=f"^{key}=.* must be "):
            check(as_override(key, value))


@pytest.mark.parametrize("key", WHOLE)
def test_whole_numbers_can_be_counted(key):
    with pytest.raises(ConfigError, match=rf"^{key}=.* must be .*(between|and) \d+"):
        check(as_override(key, 10**30))


@pytest.mark.parametrize("key", NUMBERS)
def test_a_number_is_not_text(key):
    with pytest.raises(ConfigError, match=key):
        check(as_override(key, "many"))


@pytest.mark.parametrize("key", TEXTS)
@pytest.mark.parametrize("broken", ["a\nb", "a\0b", "a\x1b[31mb", "a\u2028b", "a\udcffb"])
def test_text_is_one_printable_line(key, broken):
    """In a folder's name, a table of the report or the terminal it would do something else."""
    if broken == "a\nb" and FIELDS[key].metadata[SETTING].takes_lines:
        pytest.skip("a prompt may have lines, as instructions do")
    config = load_config("quickstart")
    section, _, name = key.rpartition(".")
    is_list = list[str] in {FIELDS[key].type, *typing.get_args(FIELDS[key].type)}
    setattr(value_of(config, section) if section else config, name, [broken] if is_list else broken)
    with pytest.raises(ConfigError, match=f"^{key}"):
        check_config(config)


@pytest.mark.parametrize(
    "name", ["../../x", "..", ".", "", "/x", "a/b", "-x", ".x", "x" * 101, "a b", "a*", "[a]", "~", "a\\b"]
)
def test_a_name_is_that_of_a_folder_within_runs(name):
    config = load_config("quickstart")
    config.name = name
    with pytest.raises(ConfigError, match=r"^name: .* cannot be the name of a folder within runs"):
        check_config(config)
    for known in ("step1_nq", "my.run-2+b", "Größe"):
        config.name = known
        check_config(config)


@pytest.mark.parametrize("factory", ["Flatt", "IVF4,", "PQ", "../x", "IVF1000000000,Flat", "PQ8x24", ""])
def test_an_index_that_faiss_does_not_know(factory):
    with pytest.raises(ConfigError, match=r"^index\.factory: "):
        check(f"index.factory='{factory}'")


@pytest.mark.parametrize(
    "factory", ["Flat", "IVF4,Flat", "IVF4096,PQ64", "PQ48", "HNSW32", "OPQ16,IVF64,PQ16"]
)
def test_an_index_that_faiss_knows(factory):
    check(f"index.factory='{factory}'")


@pytest.mark.parametrize(
    "key",
    sorted(
        {*NUMBERS} - {"reader.max_tokens_per_passage", "retriever.rerank_from", "index.validation_passages"}
    ),
)
def test_bounds_themselves_are_allowed_where_they_say_so(key):
    for bound in (rules_of(key).at_least, rules_of(key).at_most):
        if bound is not None:
            check(as_override(key, bound), f"training.train_reader={str(key in OF_TRAINED_READER).lower()}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_steps=-1", "trainer.max_steps=-1 must be at least 0"),
        ("trainer.max_steps=10000000000", "trainer.max_steps=10000000000 must be between 0 and 2147483647"),
        ("stopping.target=nan", "stopping.target=nan must be finite, or null"),
        ("seed=-1", "seed=-1 must be between 0 and 4294967295"),
        ("trainer.gradient_clip=0", "trainer.gradient_clip=0.0 must be above 0, or null"),
        ("retriever.dropout=1.5", "retriever.dropout=1.5 must be between 0 and 1, or null"),
        (
            "stopping.false_stop_rate=0.5",
            "stopping.false_stop_rate=0.5 must be between 0 and 0.5, both excluded",
        ),
        ("training.reader_lr=.inf", "training.reader_lr=inf must be at least 0, and finite"),
        ("stopping.target=.nan", "stopping.target=nan must be finite, or null"),
        (
            "evaluation.percentiles=[90,101]",
            "evaluation.percentiles=[90, 101] must be one or more numbers, each between 0 and 100",
        ),
        (
            "evaluation.hit_rate_ks=[]",
            "evaluation.hit_rate_ks=[] must be one or more numbers, each at least 1",
        ),
    ],
)
def test_messages(override, message):
    with pytest.raises(ConfigError) as error:
        check(override)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "key", [key for key, item in FIELDS.items() if type(None) in typing.get_args(item.type)]
)
def test_null_is_possible_where_the_type_says_so(key):
    check(f"{key}=null")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("index.refresh=0-100", r'index.refresh: refresh schedule.*"0-500:50,500-2000:250"'),
        ("index.refresh=when_stale:2", "index.refresh: 'when_stale:2' is not of the form when_stale:OVERLAP"),
        ("reader.attention_heads=12", "reader.attention_heads: '12' names no attention head"),
        (
            "stopping.thresholds=[m >= 0.1, m = 3]",
            "stopping.thresholds: 'm = 3' is no threshold; write ",
        ),
        ("stopping.thresholds=[{bound: m >= 1}]", "stopping.thresholds: {'bound': 'm >= 1'} must be text"),
    ],
)
def test_what_is_written_in_a_form_is_read_at_once(override, message):
    check("index.refresh=when_stale:0.8", "reader.attention_heads=0-3.*")
    with pytest.raises(ConfigError, match=message):
        check(override)


# ---- settings that depend on others ----


@pytest.mark.parametrize(
    ("overrides", "smallest"),
    [
        (["reader.context=independent", "training.num_passages=1"], 104),
        (["reader.context=concatenated", "training.num_passages=5"], 104),
        (["reader.context=concatenated", "training.num_passages=1"], 152),
        (["reader.family=fusion_in_decoder", "training.num_passages=1"], 104),
    ],
)
def test_prompts_have_room_for_the_text_of_a_passage(overrides, smallest):
    check(*overrides, f"reader.max_tokens_per_passage={smallest}")
    with pytest.raises(ConfigError, match=f"it must be at least {smallest}"):
        check(*overrides, f"reader.max_tokens_per_passage={smallest - 1}")


@pytest.mark.parametrize("name", ["closed_book", "retrieve_only"])
@pytest.mark.parametrize(
    "untrained",
    [["trainer.max_steps=0"], ["training.train_retriever=false", "training.train_reader=false"]],
)
def test_a_part_is_measured_by_itself_where_nothing_is_trained(name, untrained):
    check(f"evaluation.{name}=true", *untrained)


def test_a_batch_in_parts_compares_nothing_between_them():
    with pytest.raises(ConfigError, match=r"set retriever\.num_at_once .* or objective\.in_batch=false"):
        check("trainer.auto_batch=true", "objective.in_batch=true")
    check("trainer.auto_batch=true", "objective.in_batch=false")
    check("trainer.auto_batch=true", "objective.in_batch=true", "trainer.max_steps=0")
    with pytest.raises(ConfigError, match=r"set trainer\.strategy=ddp"):
        check("trainer.auto_batch=true", "objective.in_batch=false", "trainer.strategy=fsdp", *NEEDED["fsdp"])
    atlas = ["trainer.auto_batch=true", "objective.in_batch=false", "objective.constants=atlas"]
    with pytest.raises(ConfigError, match=r"averages over the tokens .* set objective\.constants=plain, or"):
        check("objective.name=emdr2", *atlas)
    check("objective.name=pdist", *atlas)
    half = ["trainer.auto_batch=true", "objective.in_batch=false", "trainer.precision=16-mixed"]
    with pytest.raises(ConfigError, match=r"scales the loss .* set trainer\.precision=bf16-mixed"):
        check(*half)
    check(*half, "trainer.precision=bf16-mixed")
    check(*half, "trainer.max_steps=0")


def test_objectives_are_asked_what_they_need():
    check("objective.name=pdist", "training.num_passages=1")
    with pytest.raises(ConfigError, match=r"objective.name=loop .* training.num_passages must be at least 2"):
        check("objective.name=loop", "training.num_passages=1")
    with pytest.raises(ConfigError, match=r"objective.name=end_to_end .* set objective.in_batch=false, or"):
        check("objective.name=end_to_end", "objective.in_batch=true")
    check("objective.name=end_to_end", *NEEDED["end_to_end"])


def test_hardware(monkeypatch):
    def hardware(*overrides):
        return build.hardware(load_config("step2_vital", list(overrides)))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert hardware() == {"accelerator": "cpu", "devices": 1, "precision": "32-true"}
    with pytest.raises(ConfigError, match=r"torch sees no GPU here; use trainer.accelerator=cpu"):
        check("trainer.accelerator=gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert hardware() == {"accelerator": "gpu", "devices": 1, "precision": "bf16-mixed"}
    assert hardware("trainer.accelerator=cpu")["precision"] == "32-true"
    assert hardware("trainer.precision=32-true")["precision"] == "32-true"
    # a card that only emulates it
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert hardware()["precision"] == "32-true"
    assert hardware("trainer.accelerator=cpu", "trainer.devices=2")["devices"] == 2
    with pytest.raises(ConfigError, match=r"trainer.devices=2, but torch sees 1 GPU"):
        hardware("trainer.devices=2")


# ---- what is watched: by default only what can become worse in the run ----


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        ("quickstart", ("retrieval/hit",)),
        ("step2_vital", ("retrieval/hit",)),
        ("offshelf_vital", (*READER, "retrieval/hit")),
        ("step1_vital", READER),
    ],
)
def test_what_is_watched_by_default(experiment, expected):
    assert monitors_of(load_config(experiment)) == expected


def test_what_is_named_is_watched():
    config = load_config("offshelf_vital", ["stopping.monitors=[teacher/auc]"])
    assert monitors_of(config) == ("teacher/auc",)
    check_config(config)


@pytest.mark.parametrize("name", ["teacher/auc", "indicator2/attention_p95", "start_candidates/teacher/auc"])
def test_a_frozen_reader_is_not_watched(name):
    with pytest.raises(ConfigError, match=f"stopping.monitors names {name}, but the reader is frozen"):
        check(f"stopping.monitors=[retrieval/hit,{name}]")
    check(f"stopping.monitors=[retrieval/hit,{name}]", "training.train_reader=true")


# ---- thresholds ----

HR = "validation/hr_at_5"


def thresholds(*overrides) -> list[str]:
    return [str(one) for one in thresholds_of(load_config("offshelf_vital", overrides))]


def test_thresholds_have_the_patience_and_action_of_the_run_unless_they_say():
    own = f"stopping.thresholds=[{HR} >= start - 0.02, {HR} >= 0.1 for 1 then stop, {HR}>=start-0.02]"
    assert thresholds() == []
    assert thresholds(own, "stopping.patience=4", "stopping.action=freeze_retriever") == [
        f"{HR} >= start - 0.02 for 4 then freeze_retriever",
        f"{HR} >= 0.1 for 1 then stop",
    ]


def test_the_rule_of_the_paper_stands_before_thresholds_and_in_place_of_the_comparison():
    rule = ["stopping.rule=paper", f"stopping.thresholds=[{HR} >= start]"]
    found = thresholds(*rule, "evaluation.percentiles=[80]")
    assert [text.split()[0] for text in found] == [
        "indicator1/attention_p80",
        "indicator1/spearman_p80",
        "indicator2/attention_p80",
        "indicator2/spearman_p80",
        HR,
    ]
    assert monitors_of(load_config("offshelf_vital", rule)) == ()
    check(*rule, "training.train_reader=true")
    for key, value in {"monitors": "[retrieval/hit]", "target": 0.0, "baseline": "probe.json"}.items():
        with pytest.raises(ConfigError, match=f"stopping.{key} is for the comparison with the start"):
            check(*rule, "training.train_reader=true", f"stopping.{key}={value}")


def test_without_monitors_thresholds_alone_decide():
    check("stopping.monitors=[]", f"stopping.thresholds=[{HR} >= start]")
    with pytest.raises(ConfigError, match=r"stopping.monitors is empty: .* give stopping.thresholds"):
        check("stopping.monitors=[]")


@pytest.mark.parametrize(
    "name", ["teacher/auc", "indicator1/undefined_p90", "teacher/mrr_std", "start_candidates/teacher/auc"]
)
def test_no_bounds_on_a_frozen_reader(name):
    own = f"stopping.thresholds=[{name} >= 0.1]"
    with pytest.raises(ConfigError, match=f"stopping.thresholds names {name}, but the reader is frozen"):
        check(own)
    check(own, "training.train_reader=true")
    check(f"stopping.thresholds=[{HR} >= 0.1, validation/kl <= 3]")


def test_the_rule_of_the_paper_is_not_for_a_frozen_reader():
    with pytest.raises(ConfigError, match=r"stopping.rule=paper names indicator1.*experiments.probe"):
        check("stopping.rule=paper")
    check("stopping.rule=paper", "stopping.enabled=false")
    check("stopping.rule=paper", "trainer.max_steps=0")


@pytest.mark.parametrize(
    ("threshold", "others", "message"),
    [
        (
            f"{HR} >= 0.1 then freeze_retriever",
            ["training.train_retriever=false"],
            "needs a run that trains the",
        ),
        (f"{HR} >= 0.1 then freeze_retriever", ["trainer.devices=2"], "needs trainer.devices=1"),
        (
            "teacher/auc >= 0.1 then reader_first",
            ["training.train_retriever=false"],
            "needs a run that trains both",
        ),
        (f"{HR} >= 0.1 then reader_first", [], "waits for a metric of the retriever"),
        ("embeddings/effective_rank >= 3 then reader_first", [], "waits for a metric of the retriever"),
    ],
)
def test_actions_of_thresholds_that_cannot_be(threshold, others, message):
    own = [f"stopping.thresholds=[{threshold}]", "training.train_reader=true"]
    with pytest.raises(ConfigError, match=f"stopping.thresholds: '.*' {message}"):
        check(*own, *others)
    check("stopping.thresholds=[teacher/auc >= 0.1 then reader_first]", "training.train_reader=true")


def test_a_model_of_the_hub_without_a_commit_is_doubted():
    [doubt] = doubts_about(load_config("atlas_large_nq", ["trainer.accelerator=cpu"]))
    assert "reader.name=google/t5-large-lm-adapt names no commit" in doubt
    assert doubts_about(load_config("offshelf_nq", ["trainer.accelerator=cpu"])) == []


def test_heads_that_do_not_teach_are_doubted():
    def doubts(*overrides):
        return doubts_about(load_config("slice_vital", ["reader.attention_heads=0.1", *overrides]))

    [doubt] = doubts("objective.name=pdist")
    assert "reader.attention_heads=0.1 says only whose attention the indicators measure" in doubt
    assert "(adist or signals or end_to_end do)" in doubt
    assert doubts("objective.name=signals") == doubts("objective.name=uniform") == []
    assert doubts("objective.name=pdist", "reader.attention_heads=null") == []


def test_the_paper_is_contradicted_by_its_tables():
    def doubts(*overrides):
        return " ".join(doubts_about(load_config("offshelf_vital", overrides)))

    assert doubts() == doubts("stopping.rule=paper", "stopping.enabled=false") == ""
    assert "at p95 Indicator 2's Spearman ends at 0.225" in doubts("stopping.rule=paper")
    without = doubts("stopping.rule=paper", "evaluation.percentiles=[90]")
    assert "p95" not in without
    assert "begins below a Spearman of 0.3" in without


def test_bf16_is_for_a_cpu_that_multiplies_it(monkeypatch):
    def found(**settings):
        config = load_config("step2_vital", [f"{key.replace('__', '.')}={v}" for key, v in settings.items()])
        return build.hardware(config)["precision"], build.reader_dtype(config)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for is_fast in (True, False):
        monkeypatch.setattr(build, "_cpu_multiplies_bfloat16", lambda is_fast=is_fast: is_fast)
        fast = ("bf16-mixed", torch.bfloat16) if is_fast else ("32-true", torch.float32)
        assert found(trainer__precision="bf16-if-fast", reader__dtype="auto") == fast
        assert found() == ("32-true", torch.float32)
        trained = found(reader__dtype="auto", training__train_reader="true")
        assert trained[1] is torch.float32, "small updates are lost in so few bits"
    with pytest.raises(ConfigError, match=r"reader.dtype=bfloat16 is for frozen weights"):
        check("reader.dtype=bfloat16", "training.train_reader=true")


def test_a_gpu_that_faiss_cannot_use(monkeypatch):
    """With the FAISS of the tests, which is for the CPU only, and a pretended GPU."""

    def doubts(*overrides):
        return " ".join(doubts_about(load_config("offshelf_vital", overrides)))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    assert doubts() == "", "an exact index is searched by torch"
    approximate = "index.factory=IVF4,PQ4"
    for part in (
        "on the CPU, though there is a GPU",
        "pip uninstall faiss-cpu, then pip install -e '.[gpu]'",
    ):
        assert part in doubts(approximate)
    assert doubts(approximate, "index.gpu=false") == doubts(approximate, "trainer.accelerator=cpu") == ""
    with pytest.raises(ConfigError, match=r"index.gpu=true, but the FAISS .* index.factory=Flat"):
        check(approximate, "index.gpu=true")
    monkeypatch.setattr(checks.metadata, "distributions", lambda name: [name])
    assert "faiss-cpu and faiss-gpu are both installed" in doubts()

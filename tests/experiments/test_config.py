"""One typed configuration: every shipped one loads, and every mistake is named with its mend."""

import dataclasses
import typing
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from experiments import build, checks
from experiments.checks import check_config
from experiments.config import (
    CONFIGS,
    ConfigError,
    ExperimentConfig,
    experiment_names,
    load_config,
    read_config,
    to_yaml,
    trains,
)
from experiments.runs import create_run

SETTINGS = ("checkpoint", "offshelf", "step1", "step2")


def leaves(config, schema=ExperimentConfig, prefix=""):
    """Yields (key, value, declared type) of all settings."""
    hints = typing.get_type_hints(schema)
    for item in dataclasses.fields(schema):
        value, declared = getattr(config, item.name), hints[item.name]
        if dataclasses.is_dataclass(declared):
            assert isinstance(value, declared), f"{prefix}{item.name}"
            yield from leaves(value, declared, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", value, declared


def is_of(value, declared) -> bool:
    if typing.get_origin(declared) is list:
        return isinstance(value, list) and all(is_of(item, typing.get_args(declared)[0]) for item in value)
    allowed = typing.get_args(declared) or (declared,)
    return type(value) in allowed


@pytest.mark.parametrize("name", experiment_names())
def test_every_shipped_configuration_loads_and_is_typed(name, monkeypatch):
    monkeypatch.setattr(build.torch.cuda, "is_available", lambda: False)
    config = load_config(name)
    assert config.name == name
    assert config.description
    assert "\n" not in config.description
    assert config.scale in ("embedded", "paper")
    for key, value, declared in leaves(config):
        assert is_of(value, declared), f"{key}={value!r} is not of type {declared}"
    check_config(config)


def test_all_experiments_of_the_specification_are_there():
    expected = {f"{setting}_{data}" for setting in SETTINGS for data in ("nq", "triviaqa", "vital")}
    assert set(experiment_names()) >= {*expected, "quickstart"}


@pytest.mark.parametrize("data", ["nq", "triviaqa", "vital"])
def test_what_each_setting_trains(data):
    trained = {}
    for setting in SETTINGS:
        config = load_config(f"{setting}_{data}")
        trained[setting] = (config.training.train_retriever, config.training.train_reader)
        assert trains(config) == (setting != "checkpoint")
    assert trained == {
        "checkpoint": (False, False),
        "offshelf": (True, True),
        "step1": (False, True),
        "step2": (True, False),
    }
    assert load_config(f"step2_{data}").init.reader_from == f"latest:step1_{data}"


def test_the_yaml_files_hold_differences_only():
    """A file that repeats a default of the schema hides what an experiment is about."""
    for path in (CONFIGS / "base").glob("*.yaml"):
        assert path.stem not in experiment_names(), "a fragment is no experiment"
        with pytest.raises(ConfigError, match="unknown experiment"):
            load_config(f"base/{path.stem}")


def test_layers_and_overrides_in_order():
    assert load_config("quickstart").trainer.max_steps == 60
    assert load_config("offshelf_vital").trainer.max_steps == 400, "from its base fragment"
    assert ExperimentConfig().trainer.max_steps == 1000
    config = load_config("quickstart", ["trainer.max_steps=7", "seed=3", "trainer.max_steps=8"])
    assert (config.trainer.max_steps, config.seed) == (8, 3)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_stepz=3", "unknown key 'trainer.max_stepz'; did you mean 'trainer.max_steps'?"),
        ("traner.max_steps=3", "unknown key 'traner'; did you mean 'trainer'?"),
        ("max_steps=3", "unknown key 'max_steps'"),
        ("trainer.max_steps.more=3", "unknown key 'trainer.max_steps.more'"),
        ("trainer.max_steps=abc", "trainer.max_steps: Value 'abc' of type 'str' could not be converted"),
        ("trainer.max_steps=1.5", "trainer.max_steps: Value '1.5' of type 'float'"),
        ("trainer.max_steps=null", "trainer.max_steps: Incompatible value 'None'"),
        ("trainer.progress_bar=maybe", "trainer.progress_bar: Value 'maybe' is not a valid bool"),
        ("evaluation.hit_rate_ks=5", "evaluation.hit_rate_ks: Invalid value"),
        ("evaluation.hit_rate_ks=[1,x]", "evaluation.hit_rate_ks[1]: Value 'x'"),
        ("trainer=3", "override 'trainer=3'"),
        ("trainer.max_steps", "is not of the form key=value, such as trainer.max_steps=8"),
        ("=3", "is not of the form key=value"),
        ("trainer.max_steps=[1", "cannot be parsed"),
        ("seed=${nowhere}", "seed: Interpolation key 'nowhere' not found"),
    ],
)
def test_wrong_overrides_are_named(override, message):
    with pytest.raises(ConfigError) as error:
        load_config("quickstart", [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["12.10", "1.1", "14.*", "0-3.*,12.10"])
def test_attention_heads_are_text_and_never_a_number(text, tmp_path):
    config = load_config("quickstart", [f"reader.attention_heads={text}", "training.retriever_lr=0.50"])
    assert config.reader.attention_heads == text
    assert config.training.retriever_lr == 0.5
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert read_config(tmp_path / "config.yaml") == config
    assert load_config("quickstart", ["reader.attention_heads=null"]).reader.attention_heads is None


@pytest.mark.parametrize("name", ["quickstrt", "base/vital", "../configs/quickstart"])
def test_an_unknown_experiment_names_the_nearest(name):
    with pytest.raises(ConfigError, match=r"unknown experiment .*; did you mean '\w+'\?; --list shows all"):
        load_config(name)
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        load_config("quickstrt")


def test_a_wrong_key_in_a_file_names_the_experiment(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").write_text("trainer: {max_step: 3}\n")
    monkeypatch.setattr("experiments.config.CONFIGS", tmp_path)
    with pytest.raises(ConfigError, match=r"experiment mine: unknown key 'trainer.max_step'"):
        load_config("mine")


@pytest.mark.parametrize("name", experiment_names())
def test_the_configuration_saved_with_a_run_is_the_same(name, tmp_path):
    config = load_config(
        name, [f"runs={tmp_path}", "seed=5", "training.retriever_lr=1e-4", 'index.refresh="0-5:1,5-9:2"']
    )
    run = create_run(config)
    assert read_config(run.config) == config
    assert set(OmegaConf.load(run.config)) == {field.name for field in dataclasses.fields(config)}


def test_a_damaged_saved_configuration_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    with pytest.raises(ConfigError, match=r"is not a run: it holds no config.yaml"):
        read_config(path)
    path.write_text(to_yaml(load_config("quickstart")).replace("seed: 0", "seed: zero"))
    with pytest.raises(ConfigError, match=r"config.yaml: seed: Value 'zero'"):
        read_config(path)


@pytest.mark.parametrize("key", checks._CHOICES)
def test_choices(key):
    trains_both = ["training.train_reader=true", "training.train_retriever=true"]
    for member in checks._CHOICES[key]:
        check_config(load_config("quickstart", [f"{key}={member.value}", *trains_both]))
    with pytest.raises(ConfigError, match=f"{key}='nonsense' is unknown; choose one of: ") as error:
        check_config(load_config("quickstart", [f"{key}=nonsense"]))
    assert all(member.value in str(error.value) for member in checks._CHOICES[key])


def test_no_choice_of_the_schema_is_left_unchecked():
    """Settings whose comment lists alternatives, as `a | b`, are the choices that are checked."""
    source = (Path(checks.__file__).parent / "config.py").read_text()
    listed = [line for line in source.splitlines() if " | " in line.partition("#")[2] and '= "' in line]
    names = {line.split(":")[0].strip() for line in listed} - {"scale", "accelerator"}
    assert names == {key.split(".")[1] for key in checks._CHOICES}


@pytest.mark.parametrize("key", checks._AT_LEAST_ONE)
def test_counts_are_at_least_one(key):
    check_config(load_config("quickstart", [f"{key}=1"]))
    for value in (0, -3):
        with pytest.raises(ConfigError, match=f"{key}={value} must be at least 1"):
            check_config(load_config("quickstart", [f"{key}={value}"]))


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
    def check(size):
        check_config(load_config("quickstart", [*overrides, f"reader.max_tokens_per_passage={size}"]))

    check(smallest)
    with pytest.raises(ConfigError, match=f"it must be at least {smallest}"):
        check(smallest - 1)


@pytest.mark.parametrize("name", ["closed_book", "retrieve_only"])
@pytest.mark.parametrize(
    "untrained",
    [["trainer.max_steps=0"], ["training.train_retriever=false", "training.train_reader=false"]],
)
def test_a_part_is_measured_by_itself_where_nothing_is_trained(name, untrained):
    check_config(load_config("quickstart", [f"evaluation.{name}=true", *untrained]))


@pytest.mark.parametrize("key", checks._POSITIVE)
def test_temperatures_are_positive(key):
    check_config(load_config("quickstart", [f"{key}=1e-3"]))
    for value in ("0", "-1", ".nan"):
        with pytest.raises(ConfigError, match=f"{key}=.* must be above 0"):
            check_config(load_config("quickstart", [f"{key}={value}"]))


@pytest.mark.parametrize("ks", ["[]", "[0]", "[1,-5]"])
def test_cut_offs_are_positive(ks):
    with pytest.raises(ConfigError, match=r"evaluation.hit_rate_ks=.* must be numbers from 1 on"):
        check_config(load_config("quickstart", [f"evaluation.hit_rate_ks={ks}"]))


def test_the_refresh_schedule_is_read_at_once():
    with pytest.raises(ConfigError, match=r'index.refresh: refresh schedule.*"0-500:50,500-2000:250"'):
        check_config(load_config("quickstart", ["index.refresh=0-100"]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("index.refresh=when_stale:2", "index.refresh: 'when_stale:2' is not of the form when_stale:OVERLAP"),
        ("index.staleness_every_steps=0", "index.staleness_every_steps=0 must be at least 1, or null"),
        ("evaluation.token_view_questions=-1", "evaluation.token_view_questions=-1 must be at least 0"),
    ],
)
def test_what_is_measured_beside_training(override, message):
    for right in ("index.refresh=when_stale:0.8", "index.staleness_every_steps=5"):
        check_config(load_config("quickstart", [right, "evaluation.token_view_questions=0"]))
    with pytest.raises(ConfigError, match=message):
        check_config(load_config("quickstart", [override]))


def test_hardware(monkeypatch):
    def hardware(*overrides):
        return build.hardware(load_config("quickstart", list(overrides)))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert hardware() == {"accelerator": "cpu", "devices": 1, "precision": "32-true"}
    with pytest.raises(ConfigError, match=r"torch sees no GPU here; use trainer.accelerator=cpu"):
        check_config(load_config("quickstart", ["trainer.accelerator=gpu"]))
    with pytest.raises(ConfigError, match=r"trainer.accelerator='tpu' is unknown; use auto, cpu or gpu"):
        hardware("trainer.accelerator=tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert hardware() == {"accelerator": "gpu", "devices": 1, "precision": "bf16-mixed"}
    assert hardware("trainer.accelerator=cpu")["precision"] == "32-true"
    assert hardware("trainer.precision=32-true")["precision"] == "32-true"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert hardware()["precision"] == "32-true"
    assert hardware("trainer.accelerator=cpu", "trainer.devices=2")["devices"] == 2
    with pytest.raises(ConfigError, match=r"trainer.devices=2, but torch sees 1 GPU"):
        hardware("trainer.devices=2")

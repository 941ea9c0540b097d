"""One typed configuration: every shipped one loads, and every mistake is named."""

import dataclasses
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments import build, run
from experiments.checks import check_config
from experiments.config import (
    CONFIGS,
    SETTING,
    ConfigError,
    ExperimentConfig,
    _layers,
    all_fields,
    experiment_names,
    load_config,
    measures_staleness,
    naming,
    overrides_of,
    read_config,
    to_yaml,
    trains,
)
from experiments.each_setting import value_of
from experiments.runs import create_run

ROOT = Path(__file__).parents[2]
SETTINGS = ("checkpoint", "offshelf", "step1", "step2")


LEAVES = {key: item for key, item in all_fields() if not dataclasses.is_dataclass(item.type)}


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
    assert config.scale in ("embedded", "paper", "own")
    for key, item in LEAVES.items():
        value = value_of(config, key)
        assert is_of(value, item.type), f"{key}={value!r} is not of type {item.type}"
    check_config(config)


@pytest.mark.parametrize("key", LEAVES)
def test_every_setting_says_what_it_is_for(key):
    told = LEAVES[key].metadata[SETTING].help
    assert told
    assert "\n" not in told
    assert not told.endswith(".")


def test_a_configuration_is_shown_without_importing_torch():
    shown = "import sys; from experiments.config import *; to_yaml(load_config('quickstart'))"
    subprocess.run(
        [sys.executable, "-c", f"{shown}; assert 'torch' not in sys.modules"], cwd=ROOT, check=True
    )


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


def test_fragments_are_no_experiments():
    for path in (CONFIGS / "base").glob("*.yaml"):
        assert path.stem not in experiment_names()
        with pytest.raises(ConfigError, match="unknown experiment"):
            load_config(f"base/{path.stem}")


def yaml_leaves(layer, prefix=""):
    """Yields (key, value) of all settings of a YAML file."""
    for key, value in layer.items():
        if isinstance(value, dict):
            yield from yaml_leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_the_yaml_files_hold_differences_only(path):
    """A line that repeats what holds without it hides what an experiment is about."""
    *bases, own = _layers(path)
    without = OmegaConf.merge(OmegaConf.structured(ExperimentConfig), *bases)
    settings = dict(yaml_leaves(OmegaConf.to_container(own)))
    assert settings, "the file says nothing"
    assert not {key: value for key, value in settings.items() if OmegaConf.select(without, key) == value}


def test_layers_and_overrides_in_order():
    assert load_config("quickstart").trainer.max_steps == 80
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
        ("trainer.max_steps=abc", "trainer.max_steps=abc: trainer.max_steps takes a whole number"),
        ("trainer.max_steps=1.5", "trainer.max_steps=1.5: trainer.max_steps takes a whole number"),
        ("trainer.max_steps=null", "trainer.max_steps=null: trainer.max_steps takes a whole number"),
        ("trainer.progress_bar=maybe", "trainer.progress_bar takes true or false"),
        ("evaluation.hit_rate_ks={a: 1}", "unknown key 'evaluation.hit_rate_ks.a'"),
        (
            "evaluation.hit_rate_ks=[1,x]",
            "hit_rate_ks[1]=x: evaluation.hit_rate_ks takes a list of",
        ),
        ("index.gpu=[1]", "index.gpu takes true or false, or null"),
        ("trainer=3", "trainer takes no value itself: set one of its keys, such as trainer.max_steps"),
        ("trainer.max_steps", "is not of the form key=value, such as trainer.max_steps=8"),
        ("=3", "is not of the form key=value"),
        ("trainer.max_steps=[1", "cannot be parsed"),
        ("seed=${nowhere}", "refers to something else, which is not allowed"),
    ],
)
def test_wrong_overrides_are_named(override, message):
    with pytest.raises(ConfigError) as error:
        load_config("quickstart", [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not re.search(r"AnyNode|ListConfig|DictConfig|NoneType|omegaconf", str(error.value))


@pytest.mark.parametrize(("given", "expected"), [("5", [5]), ("1,5", [1, 5]), ("[1, 5]", [1, 5])])
def test_a_list_of_one_needs_no_brackets(given, expected):
    assert load_config("quickstart", [f"evaluation.hit_rate_ks={given}"]).evaluation.hit_rate_ks == expected
    text = "validation/hr_at_5 >= start - 0.02 for 3 then stop"
    assert load_config("quickstart", [f"stopping.thresholds={text}"]).stopping.thresholds == [text]
    assert load_config("quickstart", ["stopping.monitors=null"]).stopping.monitors is None


def test_help_lists_every_key(capsys):
    with pytest.raises(SystemExit):
        run.main(["--help"])
    shown = capsys.readouterr().out
    for key, item in LEAVES.items():
        assert f"  {key} [" in shown
        assert item.metadata[SETTING].help in " ".join(shown.split())
    assert "of the passages in a concatenated prompt: rank, shuffled" in " ".join(shown.split())
    assert "trainer.max_steps [1000] optimizer steps; 0 = nothing is trained: a whole number, at least 0" in (
        " ".join(shown.split())
    )


@pytest.mark.parametrize("text", ["12.10", "1.1", "14.*", "0-3.*,12.10"])
def test_attention_heads_are_text_and_never_a_number(text, tmp_path):
    config = load_config("quickstart", [f"reader.attention_heads={text}", "training.retriever_lr=0.50"])
    assert config.reader.attention_heads == text
    assert config.training.retriever_lr == 0.5
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert read_config(tmp_path / "config.yaml") == config
    assert load_config("quickstart", ["reader.attention_heads=null"]).reader.attention_heads is None


@pytest.mark.parametrize("quote", ["", '"', "'"])
def test_thresholds_are_a_list_of_text(quote, tmp_path):
    texts = ["validation/hr_at_5 >= start - 0.02", "until validation/hr_at_5 >= 0.6"]
    written = ", ".join(f"{quote}{text}{quote}" for text in texts)
    config = load_config("quickstart", [f"stopping.thresholds=[{written}]"])
    assert config.stopping.thresholds == texts
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert read_config(tmp_path / "config.yaml") == config


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
    with pytest.raises(ConfigError, match=r"config.yaml: seed=zero: seed takes a whole number"):
        read_config(path)


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("normalize must be true", "retriever.normalize must be true"),
        ("retriever x has 3 layers; num_layers=4 is not within", "x has 3 layers; retriever.num_layers=4 is"),
        (
            "with tied=false set name to a folder",
            "with retriever.tied=false set init.retriever_from to a folder",
        ),
        # what only looks like an argument
        ("no file of that name is here", "no file of that name is here"),
        ("name.json: dropout_rate=1", "name.json: dropout_rate=1"),
        ("set retriever.name or reader.name", "set retriever.name or reader.name"),
    ],
)
def test_errors_of_the_library_name_the_settings(message, named):
    with pytest.raises(OSError, match="name=x"), naming("retriever"):
        raise OSError("name=x")
    for _ in range(2):  # a second time changes nothing
        with pytest.raises(ConfigError) as error, naming("retriever", name="init.retriever_from"):
            raise ConfigError(message)
        message = str(error.value)
        assert named in message


def test_overrides_of_a_configuration_make_it_again():
    given = [
        "data.train=my questions.jsonl",
        "reader.attention_heads=12.10",
        "evaluation.hit_rate_ks=[1,7]",
        "seed=3",
    ]
    config = load_config("own_data", given)
    assert sorted(overrides_of(config)) == sorted(given)
    assert overrides_of(load_config("own_data")) == []


# ---- what is in the environment stays there ----


@pytest.mark.parametrize(
    "override",
    [
        "description=${oc.env:SECRET_TOKEN}",
        "description='key: ${oc.env:SECRET_TOKEN,none}'",
        "description=\\${oc.env:SECRET_TOKEN}",
        "stopping.monitors=[a, '${oc.env:SECRET_TOKEN}']",
        "data={train: '${oc.env:SECRET_TOKEN}'}",
        "data=${reader}",
        "seed=${trainer.max_steps}",
        "scale=${oc.decode:embedded}",
    ],
)
def test_overrides_refer_to_nothing_else(override, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    with pytest.raises(ConfigError, match="refers to something else, which is not allowed") as error:
        load_config("quickstart", [override])
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "scale: ${oc.env:SECRET_TOKEN}",
        "stopping: {thresholds: ['${oc.env:SECRET_TOKEN}']}",
        "data: ${reader}",
    ],
)
def test_saved_configurations_refer_to_nothing_else(tmp_path, text, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    path = tmp_path / "config.yaml"
    path.write_text(f"{text}\n")
    with pytest.raises(ConfigError, match="refers to something else, which is not allowed") as error:
        read_config(path)
    assert str(path) in str(error.value)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "is_measured"),
    [
        ([], False),
        (["retrieval.are_fixed=false"], True),
        (["index.validation_passages=null"], True),
        (["index.staleness_every_steps=10"], True),
        (["index.refresh=when_stale"], True),
        (["retrieval.are_fixed=false", "training.train_retriever=false"], False),
        (["retrieval.are_fixed=false", "trainer.max_steps=0"], False),
    ],
)
def test_staleness_is_measured_of_an_index_that_is_searched(overrides, is_measured):
    assert measures_staleness(load_config("quickstart", overrides)) == is_measured

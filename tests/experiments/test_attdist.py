"""One name for all commands."""

from pathlib import Path

import pytest

from experiments import attdist


def test_every_command_is_there_and_runs_as_its_module(capsys):
    folder = Path(attdist.__file__).parent
    modules = {
        path.stem
        for path in folder.glob("*.py")
        if "\ndef main(" in path.read_text() and path.stem != "attdist"
    }
    packages = {path.parent.name for path in folder.glob("*/__main__.py")}
    assert {name.replace("-", "_") for name in attdist.COMMANDS} == modules | packages
    assert attdist.main(["study", "--list"]) == 0
    assert "prediction/" in capsys.readouterr().out
    assert attdist.main(["run", "--list"]) == 0
    assert "quickstart" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        attdist.main(["control-length", "--help"])
    assert ended.value.code == 0


def test_help_and_unknown_commands(capsys):
    assert attdist.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in attdist.COMMANDS)
    assert attdist.main(["fly"]) == 2
    assert "unknown command 'fly'; choose one of: run, sweep" in capsys.readouterr().err

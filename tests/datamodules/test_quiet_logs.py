"""Loggers that are kept quiet for a while."""

import logging

import pytest

from datamodules.quiet_logs import only_errors_of


def fail():
    with only_errors_of("a.library"):
        logging.getLogger("a.library.part").warning("inside")
        logging.getLogger("a.library").error("an error")
        raise KeyError


def test_warnings_are_heard_again_afterwards_and_after_an_error(caplog):
    with pytest.raises(KeyError):
        fail()
    logging.getLogger("a.library").warning("outside")
    assert [record.message for record in caplog.records] == ["an error", "outside"]

"""A fingerprint moves with the code that can be reached, and no other."""

import importlib
import os

import pytest

import ktransfer
from ktransfer import fingerprints

CORE = '''
"""Core."""
import numpy as np
from ktransfer import frozen
from ktransfer.surgery import freeze

LIMIT = 3

def used(x):
    """Documented."""
    return helper(x) + LIMIT  # a comment

def helper(x):
    return freeze(x)

def other(x):
    return frozen.split(x)
'''


def code_of(tmp_path, text, name="used"):
    file = tmp_path / "method.py"
    file.write_text(text, encoding="utf-8")
    fingerprints._parsed.cache_clear()
    return fingerprints.code((file, name))


@pytest.mark.parametrize(
    ("old", "new", "moves"),
    [
        ("# a comment", "# another", False),
        ("Documented.", "Documented otherwise.", False),
        ("helper(x) + LIMIT", "helper( x )+LIMIT", False),
        ("frozen.split(x)", "frozen.split(x, 1)", False),
        ("LIMIT = 3", "LIMIT = 4", True),
        ("return freeze(x)", "return freeze(x), 1", True),
        ("helper(x) + LIMIT", "helper(x) - LIMIT", True),
        ("def other(x):", "helper = None\n\ndef other(x):", True),
    ],
)
def test_what_moves_it(tmp_path, old, new, moves):
    assert old in CORE
    before = code_of(tmp_path, CORE)
    after = code_of(tmp_path, CORE.replace(old, new))
    assert (before != after) == moves


def test_it_follows_names_into_other_modules(tmp_path, monkeypatch):
    before = code_of(tmp_path, CORE)
    seen = fingerprints._Module.reach

    def edited(self, name):
        text, reached = seen(self, name)
        return text + ("#" if name == "_set_trainable" else ""), reached

    monkeypatch.setattr(fingerprints._Module, "reach", edited)
    assert code_of(tmp_path, CORE) != before


def test_a_module_handed_on_counts_whole(tmp_path):
    text = CORE.replace("helper(x) + LIMIT", "getattr(frozen, x)")
    file = tmp_path / "method.py"
    file.write_text(text, encoding="utf-8")
    fingerprints._parsed.cache_clear()
    _, reached = fingerprints._parsed(file).reach("used")
    assert ("frozen.py", "*") in [(place.name, name) for place, name in reached]


def test_switches_that_move_numbers_are_seen(monkeypatch):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS", raising=False)
    assert "TF_ENABLE_ONEDNN_OPTS" not in fingerprints.switches()
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    assert fingerprints.switches()["TF_ENABLE_ONEDNN_OPTS"] == "0"


def test_what_the_package_sets_itself_is_no_switch(monkeypatch):
    monkeypatch.delenv("TF_ENABLE_ONEDNN_OPTS")
    importlib.reload(ktransfer)
    assert os.environ["TF_ENABLE_ONEDNN_OPTS"] == "1"
    assert fingerprints.switches() == {}

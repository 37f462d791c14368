"""Sources: made once, again when damaged or outdated, and after another."""

import numpy as np
from helpers import bytes_of, layer_of
from sweeps import sourced

from ktransfer import runs
from ktransfer.runs import sources


def test_sources_are_made_once_and_again_when_damaged(tmp_path, capsys):
    (run,) = sourced("feature_extraction")
    (pretraining,) = runs.pretrainings(run)
    first, facts = sources.load(tmp_path, pretraining)
    place = sources.path(tmp_path, pretraining)
    content = place.read_bytes()
    again, same = sources.load(tmp_path, pretraining)
    assert facts == same and place.read_bytes() == content
    assert bytes_of(first.model) == bytes_of(again.model)
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 255
    place.write_bytes(bytes(flipped))
    third, _ = sources.load(tmp_path, pretraining)
    assert "damaged" in capsys.readouterr().err
    assert bytes_of(first.model) == bytes_of(third.model)


def test_a_source_after_another_starts_from_its_features(tmp_path):
    (run,) = sourced("feature_extraction")
    pretraining = runs.pretrainings(run)[0]
    derived = pretraining._replace(task="digits", after="letters_0to4")
    base, _ = sources.load(tmp_path, pretraining)
    other, _ = sources.load(tmp_path, derived)
    assert other.task.name == "digits"
    assert sources.path(tmp_path, derived).exists()
    assert sources.path(tmp_path, pretraining).exists()
    assert base.model.input.shape != other.model.input.shape


def test_an_outdated_source_is_made_again(tmp_path, monkeypatch):
    (run,) = sourced("feature_extraction")
    (pretraining,) = runs.pretrainings(run)
    sources.load(tmp_path, pretraining)
    place = sources.path(tmp_path, pretraining)
    before = place.read_bytes()
    monkeypatch.setattr(runs, "source_fingerprint", lambda p: "of today")
    _, facts = sources.load(tmp_path, pretraining)
    assert facts["fingerprint"] == "of today"
    assert place.read_bytes() != before


def test_a_source_after_another_has_its_features_at_the_start(
    tmp_path, monkeypatch
):
    (run,) = sourced("feature_extraction")
    base = runs.pretrainings(run)[0]
    first, _ = sources.load(tmp_path, base)
    monkeypatch.setattr(sources.training, "fit", lambda *a, **options: None)
    derived = base._replace(task="digits", after="letters_0to4")
    second, _ = sources.load(tmp_path, derived)
    for name in ("block1_conv", "block2_conv", "block3_conv"):
        one, other = (layer_of(s.model, name) for s in (first, second))
        assert np.array_equal(one.kernel, other.kernel)
        assert np.array_equal(one.bias, other.bias)

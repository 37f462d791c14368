"""Features come from the cache only where they would be computed the same."""

from pathlib import Path

import numpy as np
import pytest
from helpers import sizes_of, small_backbone, small_task, weights_of

from ktransfer.engine import feature_cache
from ktransfer.engine.prediction import predict
from ktransfer.engine.programs import forward
from ktransfer.engine.training import fit
from ktransfer.models.graph import leaves
from ktransfer.models.surgery import adapt_input, attach_head, freeze

MANY = 2100


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ktransfer" / "features"


@pytest.fixture
def computed(spy):
    """The calls by which a graph is computed."""
    return spy(feature_cache, "forward")


def images(n=48, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 255, (n, 12, 12, 3)).astype("uint8")


@pytest.mark.parametrize("n", [48, MANY])
def test_the_same_content_is_computed_once(computed, n):
    first = feature_cache.values(small_backbone(), images(n))
    again = feature_cache.values(small_backbone(), images(n))
    assert sizes_of(computed) == [n]
    assert (first == again).all()
    assert (first == forward(small_backbone(), images(n))).all()
    assert not again.flags.writeable


@pytest.mark.parametrize("n", [48, MANY])
def test_other_content_is_computed(computed, n):
    feature_cache.values(small_backbone(), images(n))
    feature_cache.values(small_backbone(seed=1), images(n))
    feature_cache.values(small_backbone(), images(n, seed=1))
    feature_cache.values(small_backbone(), images(n).astype("float32"))
    feature_cache.values(small_backbone(normalised=True), images(n))
    assert sizes_of(computed) == [n] * 5


def test_what_moves_a_bit_is_in_the_key(computed, monkeypatch):
    feature_cache.values(small_backbone(), images())
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    feature_cache.values(small_backbone(), images())
    assert len(computed) == 2


def test_other_processes_find_the_files(cache, computed):
    feature_cache.values(small_backbone(), images(MANY))
    feature_cache.forget()
    found = feature_cache.values(small_backbone(), images(MANY))
    assert isinstance(found, np.memmap)
    assert len(list(cache.glob("*.npy"))) == len(computed) == 1


@pytest.mark.parametrize("place", [None, 0, 5000, -1])
def test_a_damaged_file_is_made_again(cache, computed, capsys, place):
    wanted = feature_cache.values(small_backbone(), images(MANY)).copy()
    (path,) = cache.glob("*.npy")
    content = bytearray(path.read_bytes() if place is not None else b"")
    if content:
        content[place] ^= 1
    path.unlink()
    path.write_bytes(content)
    feature_cache.forget()
    for _ in range(2):
        found = feature_cache.values(small_backbone(), images(MANY))
        assert (found == wanted).all()
    assert sizes_of(computed) == [MANY] * 2
    assert ("damaged" in capsys.readouterr().err) == (place is not None)


def test_the_code_of_the_layers_is_in_the_key(spy):
    calls = spy(feature_cache.fingerprints, "code")
    rng = np.random.default_rng(0)
    large = rng.integers(0, 255, (8, 30, 30, 3)).astype("uint8")
    feature_cache.values(adapt_input(small_backbone(), (30, 30, 3)), large)
    places = {(Path(file).name, n) for call in calls for file, n in call.args}
    assert {("layers.py", "Pixels"), ("programs.py", "forward")} <= places


def test_a_folder_that_cannot_be_written_is_told(cache, monkeypatch, capsys):
    cache.parent.parent.joinpath("blocked").write_text("a file")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent.parent / "blocked"))
    found = feature_cache.values(small_backbone(), images(MANY))
    assert (found == forward(small_backbone(), images(MANY))).all()
    assert "not kept on disk" in capsys.readouterr().err


def test_files_that_were_not_used_for_longest_go_first(cache, monkeypatch):
    for seed in (0, 1):
        feature_cache.values(small_backbone(seed=seed), images(MANY))
    (size,) = {path.stat().st_size for path in cache.glob("*.npy")}
    before = set(cache.glob("*.npy"))
    monkeypatch.setattr(feature_cache, "DISK_BUDGET", 2 * size)
    feature_cache.values(small_backbone(seed=0), images(MANY))
    feature_cache.values(small_backbone(seed=2), images(MANY))
    after = set(cache.glob("*.npy"))
    assert len(after) == 2
    (kept,) = before & after
    again = feature_cache.values(small_backbone(seed=0), images(MANY))
    assert str(again.filename) == str(kept)


def test_the_memory_has_a_budget(computed, monkeypatch):
    one = feature_cache.values(small_backbone(), images()).nbytes
    monkeypatch.setattr(feature_cache, "MEMORY_BUDGET", 2 * one)
    for seed in (1, 2, 3):
        feature_cache.values(small_backbone(seed=seed), images())
    assert len(feature_cache._memory) == 2


@pytest.mark.parametrize("trained", ["head", "upper", "all", "none"])
def test_prediction_agrees_with_the_whole_graph(trained):
    task = small_task("target", 3)
    backbone = small_backbone(normalised=True)
    model = attach_head(backbone, 3, seed=0)
    lower = [x for x in leaves(backbone) if x.name < "block3"]
    frozen = {"head": [backbone], "none": [model], "upper": lower, "all": []}
    for part in frozen[trained]:
        freeze(part)
    before = weights_of(model)
    found = predict(model, task.train.x)
    np.testing.assert_allclose(
        found, forward(model, task.train.x), rtol=1e-5, atol=1e-6
    )
    assert found.flags.writeable
    assert weights_of(model) == before


def test_training_reads_the_values_of_an_earlier_one(computed):
    task = small_task("target", 3)
    heads = []
    for rate in (1e-2, 1e-2, 1e-3):
        backbone = small_backbone()
        freeze(backbone)
        model = attach_head(backbone, 3, seed=0)
        fit(model, task.train, steps=12, seed=0, learning_rate=rate)
        heads.append(weights_of(model))
    assert sizes_of(computed) == [48]
    assert heads[0] == heads[1] != heads[2]

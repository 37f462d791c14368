"""DELTA: feature maps are held, each channel by how much it matters."""

import numpy as np
import pytest
from helpers import (
    defaults,
    idle,
    layer_of,
    log_loss,
    sizes_of,
    small_task,
    small_world,
    softmax,
    standardised,
    weights_of,
)

from ktransfer.engine.prediction import predict
from ktransfer.measures import evaluation
from ktransfer.methods.finetuning import delta
from ktransfer.methods.finetuning.delta import transfer
from ktransfer.methods.parameter import fine_tuning
from ktransfer.models import backbones
from ktransfer.models.graph import leaves
from ktransfer.models.own import Source
from ktransfer.models.surgery import attach_head, copy, copy_backbone, inline
from ktransfer.seeds import stream
from ktransfer.stages import heads

OPTIONS = {"seed": 1, "batch_size": 16}
BLOCKS = ["block1", "block2", "block3"]


@pytest.fixture
def world():
    return small_world()


@pytest.fixture
def normalised():
    return small_world(normalised=True)


def prepared(spy, world, **options):
    """Return the result and the call of the second stage, which is not run."""
    calls = spy(delta, instead=idle)
    result = transfer(*world, steps=10, **OPTIONS, **options)
    return result, calls[-1]


@pytest.fixture(scope="module")
def probe():
    target, source = small_world()
    backbone = copy_backbone(source.model)
    return heads.probed(target, backbone, steps=20, learning_rate=0.05, seed=1)


def test_strengths_of_zero_are_fine_tuning_bit_for_bit(world):
    ours = transfer(*world, steps=3, strength=0, head_strength=0, **OPTIONS)
    theirs = fine_tuning.transfer(*world, steps=3, **OPTIONS)
    assert weights_of(ours) == weights_of(theirs)


def test_the_penalty_is_zero_before_the_first_step(normalised, spy):
    target, _ = normalised
    _, call = prepared(spy, normalised, strength=1e3, head_strength=0)
    outputs = call.model(target.train.x)
    assert len(outputs["maps"]) == 3
    for tuned, kept in outputs["maps"]:
        np.testing.assert_array_equal(tuned, kept)
    hard = log_loss(target.train.y, outputs["logits"])
    found = float(call.loss(target.train.y, outputs))
    assert found == pytest.approx(hard, rel=1e-6)


def test_the_source_runs_in_inference_mode(normalised, spy):
    target, source = normalised
    result, call = prepared(spy, normalised)
    served = inline(source.model, tap=BLOCKS)
    images = np.repeat(target.train.x, 3, axis=-1)
    expected = served(images)
    outputs = call.model(target.train.x, training=True)
    for name, (tuned, kept) in zip(BLOCKS, outputs["maps"]):
        np.testing.assert_allclose(kept, expected[name], atol=1e-6)
        assert not np.allclose(tuned, kept, atol=1e-2)
    twin = call.model.get_layer("source")
    assert not twin.trainable_variables
    ours = {id(v) for v in result.variables}
    assert not ours & {id(v) for v in twin.variables}


def test_the_loss_is_the_written_formula(world, monkeypatch, spy):
    target, _ = world
    given = [softmax(np.arange(c) / 3) for c in (4, 6, 8)]
    shares = [share.astype("float32") for share in given]
    monkeypatch.setattr(delta, "_importance", lambda *_: shares)
    result, call = prepared(spy, world, strength=0.3, head_strength=0.7)
    rng = np.random.default_rng(0)
    for variable in result.trainable_variables:
        variable.assign(variable + rng.normal(0, 0.2, variable.shape))
    outputs = call.model(target.train.x)
    expected = log_loss(target.train.y, outputs["logits"])
    for (tuned, kept), share in zip(outputs["maps"], given):
        _, height, width, channels = tuned.shape
        for c in range(channels):
            change = np.asarray(tuned - kept, "float64")[..., c]
            squares = (change**2).sum()
            scale = channels / (height * width)
            expected += 0.3 / 2 * share[c] * scale * squares
    head = leaves(result)[-1].kernel.numpy().astype("float64")
    expected += 0.7 / 2 * (head**2).sum()
    found = float(call.loss(target.train.y, outputs))
    assert found == pytest.approx(expected, rel=1e-4)


def test_equal_shares_give_the_plain_distance_of_the_maps():
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 5, 3, 2, 4)).astype("float32")
    found = float(delta._distance(one, two, np.full(4, 0.25, "float32")))
    plain = (one.astype("float64") - two) ** 2
    assert found == pytest.approx(plain.sum() / 6, rel=1e-5)
    # Vectors are maps of one position.
    one, two = one[:, 0, 0], two[:, 0, 0]
    found = float(delta._distance(one, two, np.full(4, 0.25, "float32")))
    assert found == pytest.approx(plain[:, 0, 0].sum(), rel=1e-5)


def test_importance_is_the_rise_of_the_loss_without_the_channel(world, probe):
    target, _ = world
    found = delta._importance(probe, target, 1, 1000, 5.0)
    # A channel is gone for what follows if nothing reads it.
    readers = ["block2_conv", "block3_conv", "logits"]
    whole = log_loss(target.train.y, predict(probe, target.train.x))
    for shares, reader in zip(found, readers, strict=True):
        rises = []
        for channel in range(len(shares)):
            cropped = copy(probe)
            layer = layer_of(cropped, reader)
            kernel = layer.kernel.numpy()
            kernel[..., channel, :] = 0
            layer.kernel.assign(kernel)
            logits = predict(cropped, target.train.x)
            rises.append(log_loss(target.train.y, logits) - whole)
        assert np.ptp(rises) > 0.002
        wanted = softmax(standardised(rises) / 5)
        np.testing.assert_allclose(shares, wanted, rtol=1e-3)
        # The rises are small, and would all but vanish in the softmax.
        assert np.ptp(softmax(np.array(rises) / 5)) < 0.02 * np.ptp(wanted)


def test_shares_sum_to_one_and_follow_the_temperature(world, probe):
    target, _ = world
    sharp, soft, flat = (
        delta._importance(probe, target, 1, 20, temperature)
        for temperature in (0.5, 5.0, 1e9)
    )
    for one, two, three in zip(sharp, soft, flat):
        for shares in (one, two, three):
            assert np.sum(shares) == pytest.approx(1, abs=1e-6)
        assert np.ptp(one) > np.ptp(two) > 0
        np.testing.assert_allclose(three, 1 / len(three), rtol=1e-5)


def test_the_default_attention_is_far_from_uniform(world, spy):
    calls = spy(delta, "_importance")
    prepared(spy, world)
    (call,) = calls
    assert [len(shares) for shares in call.result] == [4, 6, 8]
    for shares in call.result:
        # Whatever the scale of the losses, and of both signs.
        logs = np.log(np.asarray(shares, "float64"))
        assert np.std(logs) == pytest.approx(1 / 5, rel=1e-4)
        assert len(shares) * np.max(shares) > 1.15
        assert len(shares) * np.min(shares) < 0.9


def test_the_scale_of_the_losses_is_nothing_to_the_attention():
    losses = [1.2, 1.5, 0.9, 1.3]
    found = delta._attention(losses, 2.0)
    expected = softmax(standardised(losses) / 2)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.argmax(found) == 1 and np.argmin(found) == 2
    moved = [7 + 1000 * loss for loss in losses]
    np.testing.assert_allclose(delta._attention(moved, 2.0), found, rtol=1e-6)


@pytest.mark.parametrize("loss", [0.0, 1.1, 0.1 + 0.2])
def test_channels_that_matter_equally_share_alike(loss):
    """A dead block has no spread to divide by."""
    found = delta._attention([loss] * 6, 5.0)
    np.testing.assert_allclose(found, 1 / 6, rtol=1e-6)


def test_the_defaults_are_the_authors():
    found = defaults(transfer)
    assert found["strength"] == found["head_strength"] == 0.01
    assert found["temperature"] == 5.0
    # Ours.
    assert (found["probe_share"], found["num_images"]) == (0.2, 250)


@pytest.mark.parametrize(("bound", "read"), [(7, 7), (1000, 48)])
def test_no_more_images_are_read_than_the_bound(world, probe, spy, bound, read):
    target, _ = world
    calls = spy(delta, "predict"), spy(evaluation, "predict")
    delta._importance(probe, target, 1, bound, 5.0)
    counts = [size for part in calls for size in sizes_of(part)]
    # As often as there are masks read at once.
    assert min(counts) == read and not any(count % read for count in counts)


def test_masks_read_at_once_are_masks_read_in_turn(world, probe, monkeypatch):
    target, _ = world
    together = delta._importance(probe, target, 1, 1000, 5.0)
    monkeypatch.setattr(evaluation, "_ROWS", 1)
    alone = delta._importance(probe, target, 1, 1000, 5.0)
    assert [[*map(float, a)] for a in together] == [
        [*map(float, a)] for a in alone
    ]


def test_the_source_is_frozen_while_its_channels_are_measured(
    normalised, spy, fits
):
    _, source = normalised
    calls = spy(delta, "_importance", watch=weights_of)
    transfer(*normalised, steps=5, probe_share=0.6, **OPTIONS)
    first, second = fits
    assert (first.steps, second.steps) == (3, 2)
    # Only the head, and its inputs are computed once.
    assert (first.trainable_parameters, first.cached) == (8 * 3 + 3, 8)
    # So are the source's maps: 6x6x4, 3x3x6 and 1x1x8 values.
    assert second.cached == 6 * 6 * 4 + 3 * 3 * 6 + 8
    (call,) = calls
    assert weights_of(call.model) == call.before
    original = weights_of(source.model)
    for path, value in call.before.items():
        if not path.startswith("logits"):
            assert value == original[path]


def test_no_strength_needs_no_probe(world, fits):
    transfer(*world, steps=10, strength=0, **OPTIONS)
    assert [fit.steps for fit in fits] == [10]


def test_the_second_stage_has_epochs_of_its_own(world, spy):
    _, call = prepared(spy, world)
    assert call.kwargs["seed"] == stream(1, "stage", 2)
    _, call = prepared(spy, world, strength=0)
    assert call.kwargs["seed"] == 1


def test_a_strength_holds_the_maps(world):
    target, source = world
    images = np.repeat(target.train.x, 3, axis=-1)
    kept = inline(source.model, tap=BLOCKS)(images)
    apart = []
    for strength in (0, 0.1):
        model = transfer(
            *world,
            steps=8,
            strength=strength,
            probe_share=0,
            learning_rate=0.01,
            **OPTIONS,
        )
        maps = inline(model, tap=BLOCKS)(target.train.x)
        apart.append(
            sum(np.square(maps[name] - kept[name]).mean() for name in BLOCKS)
        )
    assert apart[0] > 2 * apart[1] > 0


def test_the_head_strength_shrinks_the_head(world):
    norms = []
    for head_strength in (0, 10):
        model = transfer(
            *world,
            steps=8,
            strength=0,
            head_strength=head_strength,
            learning_rate=0.01,
            **OPTIONS,
        )
        norms.append(np.square(leaves(model)[-1].kernel.numpy()).sum())
    assert norms[1] < 0.9 * norms[0]


def test_a_source_of_vectors_is_held_too(fits):
    source = Source(
        attach_head(backbones.mlp((12, 12, 3), units=(10, 7)), 3, seed=0),
        small_task("source", 3),
    )
    transfer(small_task("target", 1), source, steps=5, **OPTIONS)
    first, second = fits
    assert (first.steps, second.steps) == (1, 4)
    assert second.cached == 10 + 7

"""Gradient surgery: what opposes the other task goes, all else stays."""

import keras
import numpy as np
import pytest
from helpers import norms_of, small_world, weights_of

from ktransfer.engine import backend
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.normalization import reestimate_statistics
from ktransfer.methods.multitask import gradient_surgery, hard_sharing
from ktransfer.stages.streams import first_backbone, two_streams

OPTIONS = {"steps": 1, "batch_size": 48, "from_source": True}


@pytest.fixture
def world():
    return small_world()


def surgery(gradients):
    """Return PCGrad's projected gradients, of any number of tasks, float64."""
    projected = [np.array(g, "float64") for g in gradients]
    for i, g in enumerate(projected):
        for j, other in enumerate(gradients):
            dot = g @ np.array(other, "float64")
            if i != j and dot < 0:
                g -= dot / (other @ other) * other
    return projected


def flat(arrays):
    return np.concatenate([np.ravel(a) for a in arrays]).astype("float64")


def without_conflict(first, second):
    """Run the method's projection on vectors cut in two variables."""
    parts = [
        [v[:2].astype("float32"), v[2:].astype("float32")]
        for v in (first, second)
    ]
    return flat(gradient_surgery._without_conflict(*parts))


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_algorithm_of_the_paper(seed):
    first, second = np.random.default_rng(seed).normal(size=(2, 7))
    for g in (second, second - 3 * first, second + 3 * first):
        projected = surgery([first, g])
        found = without_conflict(first, g)
        np.testing.assert_allclose(found, sum(projected), atol=1e-5)
        if first @ g < 0:
            assert abs(projected[0] @ g) < 1e-9
            # What each lost is orthogonal to the other, so their sum gains.
            assert found @ first > -1e-5
            assert found @ g > -1e-5


def test_the_ends_of_conflict():
    g, right = np.array([3.0, 1, -2, 0.5]), np.array([1.0, -3, 0, 0])
    assert not without_conflict(g, -g).any()
    np.testing.assert_array_equal(without_conflict(g, g), 2 * g)
    np.testing.assert_array_equal(without_conflict(g, right), g + right)
    np.testing.assert_array_equal(without_conflict(g, 0 * g), g)


def task_gradients(world, seed):
    """Return the gradient of the shared weights for each task, flat."""
    target, source = world
    backbone = first_backbone(source, seed=seed, from_source=True)
    both = two_streams(target, source, backbone, backbone, seed=seed)
    found = []
    for name, split in (
        ("target", target.train),
        ("source", source.task.train),
    ):
        network = both.get_layer(f"{name}_network")

        def loss(network=network, split=split):
            return cross_entropy(split.y, network(split.x))

        variables = backbone.trainable_variables
        found.append(flat(backend.value_and_gradients(loss, variables)[1]))
    return found


def seed_with(world, conflict):
    """Return a seed of the heads under which the tasks conflict, or do not."""
    return next(
        seed
        for seed in range(20)
        if (np.dot(*task_gradients(world, seed)) < 0) == conflict
    )


def is_head(variable):
    return "logits" in variable.path


def test_no_conflict_is_hard_sharing(world):
    seed = seed_with(world, conflict=False)
    model = gradient_surgery.transfer(*world, seed=seed, **OPTIONS)
    plain = hard_sharing.transfer(*world, seed=seed, **OPTIONS)
    for a, b in zip(model.weights, plain.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_conflict_is_projected_and_the_heads_keep_their_gradients(
    world, fits
):
    seed = seed_with(world, conflict=True)
    sgd = {"optimizer": keras.optimizers.SGD, "learning_rate": 0.1}
    start = gradient_surgery.transfer(
        *world, seed=seed, **{**OPTIONS, "steps": 0}
    )
    model = gradient_surgery.transfer(*world, seed=seed, **OPTIONS, **sgd)
    plain = hard_sharing.transfer(*world, seed=seed, **OPTIONS, **sgd)
    trios = list(zip(start.weights, model.weights, plain.weights, strict=True))
    moved = flat([(b - a) / -0.1 for a, b, _ in trios if not is_head(a)])
    expected = sum(surgery(task_gradients(world, seed)))
    np.testing.assert_allclose(moved, expected, atol=2e-5)
    for _, b, c in trios:
        assert np.array_equal(b, c) == is_head(b)
    # The loss that is reported is the plain sum.
    surgical, shared = fits
    assert surgical.curve[0][1] == pytest.approx(shared.curve[0][1], rel=1e-5)


def test_batch_normalisation_ends_with_the_targets_statistics():
    target, source = small_world(normalised=True)
    model = gradient_surgery.transfer(target, source, seed=0, **OPTIONS)
    before = weights_of(model)
    reestimate_statistics(model, target.train.x)
    assert weights_of(model) == before


def test_a_step_passes_each_task_forward_once():
    """A second pass for the other gradient would move the statistics twice."""
    target, source = small_world(normalised=True)
    options = {"steps": 1, "seed": 0, "batch_size": 48, "from_source": True}
    one = hard_sharing.transfer(target, source, statistics="trained", **options)
    other = gradient_surgery.transfer(
        target, source, statistics="trained", **options
    )
    for mine, theirs in zip(norms_of(other), norms_of(one), strict=True):
        np.testing.assert_array_equal(mine.moving_mean, theirs.moving_mean)

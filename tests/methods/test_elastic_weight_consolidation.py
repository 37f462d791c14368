"""EWC: each weight is held by its own Fisher information on the source."""

import keras
import numpy as np
import pytest
from helpers import bytes_of, defaults, idle, small_task, small_world, softmax
from keras import layers

from ktransfer.engine.losses import cross_entropy
from ktransfer.measures.fisher import diagonal_fisher
from ktransfer.methods.finetuning import elastic_weight_consolidation as ewc
from ktransfer.methods.finetuning import l2_sp
from ktransfer.methods.finetuning.elastic_weight_consolidation import transfer
from ktransfer.methods.parameter import fine_tuning
from ktransfer.models.own import Source
from ktransfer.models.surgery import attach_head, copy, cut

OPTIONS = {"steps": 3, "seed": 2, "batch_size": 16}


def trained(model):
    return cut(model, "features").trainable_variables


def test_strength_zero_is_fine_tuning_and_costs_no_fisher(world, monkeypatch):
    monkeypatch.setattr(ewc, "diagonal_fisher", None)
    model = transfer(*world, strength=0, **OPTIONS)
    assert bytes_of(model) == bytes_of(fine_tuning.transfer(*world, **OPTIONS))


def test_the_defaults_are_ours():
    found = defaults(transfer)
    assert (found["strength"], found["num_images"]) == (100.0, 256)


def test_a_fisher_of_one_on_the_kernels_is_l2_sp(world, monkeypatch):
    def kernels(model, images, variables, **options):
        return [
            np.full(v.shape, float(v.path.endswith("conv/kernel")))
            for v in variables
        ]

    monkeypatch.setattr(ewc, "diagonal_fisher", kernels)
    model = transfer(*world, strength=7.0, **OPTIONS)
    held = l2_sp.transfer(*world, strength=7.0, head_strength=0, **OPTIONS)
    assert bytes_of(model) == bytes_of(held)
    # The pull is felt from the second step on.
    assert bytes_of(model) != bytes_of(fine_tuning.transfer(*world, **OPTIONS))


def test_the_penalty_is_the_fisher_weighted_distance(world, spy):
    target, source = world
    calls = spy(ewc, instead=idle)
    model = transfer(
        target, source, steps=1, seed=3, strength=50.0, num_images=4
    )
    loss = calls[0].loss
    x, y = target.train
    plain = float(cross_entropy(y, model(x)))
    assert float(loss(y, model(x))) == pytest.approx(plain, rel=1e-6)

    network = copy(source.model)
    fishers = diagonal_fisher(
        network, source.task.train.x, trained(network), num_images=4, seed=3
    )
    assert all((f >= 0).all() for f in fishers)
    assert max(f.max() for f in fishers) > 0
    rng, wanted = np.random.default_rng(0), 0.0
    backbone = trained(model)
    # Three convolutions and three normalisations, two weights each.
    assert len(backbone) == 12
    for variable, start, fisher in zip(
        backbone, trained(network), fishers, strict=True
    ):
        old = start.numpy()
        assert variable.numpy().tobytes() == old.tobytes()
        variable.assign(old + 0.3 * rng.normal(size=old.shape))
        moved = variable.numpy().astype("float64") - old
        wanted += 25.0 * (fisher * moved**2).sum()
    found = float(loss(y, model(x)))
    found -= float(cross_entropy(y, model(x)))
    assert found == pytest.approx(wanted, rel=1e-3)
    assert wanted > 0


def linear_source():
    """Return a source whose features, and logits of them, are linear."""
    inputs = keras.Input((12, 12, 1), dtype="uint8", name="images")
    x = layers.Rescaling(1 / 255, name="rescale")(inputs)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(2, name="features")(x)
    model = attach_head(keras.Model(inputs, x), 3, seed=0)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(0.5 * rng.normal(size=variable.shape))
    return Source(model, small_task("source", 1, n=6))


def test_the_penalty_holds_the_fisher_written_out(spy):
    """F = mean over x of sum over y of p(y) (d log p(y) / d W)^2, by hand.

    With z = U'(W'x + b) + c the slope of log p(y) is x (U (e_y - p))'.
    """
    source = linear_source()
    calls = spy(ewc, instead=idle)
    target = small_task("target", 1)
    model = transfer(target, source, steps=1, seed=3, strength=50.0)
    loss = calls[0].loss
    w, b, u, c = (v.numpy().astype("float64") for v in source.model.weights)
    kernel, bias = np.zeros(w.shape), np.zeros(b.shape)
    images = source.task.train.x.reshape(6, -1) / 255
    for x in images:
        z = (x @ w + b) @ u + c
        p = softmax(z)
        for y in range(3):
            slope = u @ (np.eye(3)[y] - p)
            kernel += p[y] * np.outer(x, slope) ** 2 / len(images)
            bias += p[y] * slope**2 / len(images)
    x, y = target.train
    for variable, fisher in zip(trained(model), (kernel, bias), strict=True):
        old = variable.numpy()
        rng = np.random.default_rng(1)
        variable.assign(old + rng.normal(size=old.shape))
        moved = variable.numpy().astype("float64") - old
        found = float(loss(y, model(x)))
        found -= float(cross_entropy(y, model(x)))
        wanted = 50.0 / 2 * (fisher * moved**2).sum()
        assert wanted > 1 and found == pytest.approx(wanted, rel=1e-3)
        variable.assign(old)


def test_the_fisher_reads_the_source_task_alone(world, spy):
    target, source = world
    calls = spy(ewc, "diagonal_fisher")
    transfer(target, source, num_images=3, **OPTIONS)
    (call,) = calls
    assert call.args[1] is source.task.train.x
    assert call.kwargs["num_images"] == 3


def test_what_matters_to_the_source_moves_less_with_strength(monkeypatch):
    target, source = small_world()
    network = copy(source.model)
    fishers = diagonal_fisher(
        network, source.task.train.x, trained(network), num_images=3, seed=0
    )
    monkeypatch.setattr(ewc, "diagonal_fisher", lambda *a, **k: fishers)

    def curve(strength):
        model = transfer(
            target,
            source,
            steps=8,
            seed=0,
            strength=strength,
            learning_rate=0.02,
            optimizer=keras.optimizers.SGD,
            batch_size=16,
        )
        pairs = zip(fishers, trained(model), trained(network), strict=True)
        return sum(
            (f * (a.numpy() - b.numpy()) ** 2).sum() for f, a, b in pairs
        )

    free, loose, tight = map(curve, (0.0, 3.0, 30.0))
    assert free > loose > tight > 0

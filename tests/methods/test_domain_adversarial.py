"""DANN: reversed to the bit, by the schedule, and only before the features."""

import keras
import numpy as np
import pytest
from helpers import bytes_of, domains, gradients, log_loss, weights_of
from keras import ops

from ktransfer.engine import backend
from ktransfer.engine.losses import cross_entropy
from ktransfer.methods.domain import domain_adversarial, source_only
from ktransfer.methods.domain.domain_adversarial import transfer
from ktransfer.models.layers import GradientReversal
from ktransfer.models.surgery import trainable_count

OPTIONS = {"steps": 3, "seed": 0, "batch_size": 8, "from_source": True}


def test_reversal_is_the_identity_and_negates_exactly():
    rng = np.random.default_rng(0)
    x, upstream = rng.normal(0, 5, (2, 4, 3)).astype("float32")
    variable, reverse = keras.Variable(x), GradientReversal()
    for strength in np.float32([0, 0.3, 1, 2.5]):
        lambdas = np.full((4, 1), strength)
        np.testing.assert_array_equal(reverse([x, lambdas]), x)
        _, (slope,) = backend.value_and_gradients(
            lambda s=lambdas: ops.sum(upstream * reverse([variable, s])),
            [variable],
        )
        np.testing.assert_array_equal(slope, -strength * upstream)


@pytest.mark.parametrize("normalised", [False, True])
def test_strength_zero_is_source_only(normalised):
    world = domains(normalised)
    model = transfer(*world, strength=0, **OPTIONS)
    plain = source_only.transfer(*world, **OPTIONS)
    assert bytes_of(model) == bytes_of(plain)


def test_the_discriminator_is_not_in_the_result():
    world = domains()
    model = transfer(*world, **OPTIONS)
    plain = source_only.transfer(*world, **OPTIONS)
    assert weights_of(model).keys() == weights_of(plain).keys()
    assert trainable_count(model) == trainable_count(plain)
    assert bytes_of(model) != bytes_of(plain)


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_lambda_reaches_the_backbone_and_not_the_discriminator(
    given_to_fit, progress
):
    target, source = domains()
    given = given_to_fit(
        domain_adversarial, target, source, strength=2.0, from_source=True
    )
    model, (x, y) = given.model, source.task.train
    images = {
        "target": target.train.x,
        "source": x,
        "progress": np.full((48, 1), progress, "float32"),
    }
    found = gradients(model, lambda: given.loss({"source": y}, model(images)))

    def told():
        """Return the discriminator's own loss, nothing reversed."""
        hidden = model.get_layer("domain_hidden")
        answer = model.get_layer("domain")
        features = model(images)
        total = 0.0
        for name, is_source in (("source", 1), ("target", 0)):
            p = ops.sigmoid(answer(hidden(features[f"{name}_features"])))
            total -= ops.mean(ops.log(p if is_source else 1 - p)) / 2
        return total

    task = gradients(model, lambda: cross_entropy(y, model(images)["source"]))
    domain = gradients(model, told)
    growth = 2.0 * (2 / (1 + np.exp(-10 * progress)) - 1)
    for path, slope in found.items():
        factor = 1 if "domain" in path else -growth
        expected = task[path] + factor * domain[path]
        np.testing.assert_allclose(slope, expected, atol=2e-5)
        if "logits" not in path:
            assert np.abs(domain[path]).max() > 1e-6


def test_the_penalty_is_the_cross_entropy_of_the_domain(given_to_fit):
    target, source = domains()
    given = given_to_fit(domain_adversarial, target, source, from_source=True)
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (7, 3))
    labels = rng.integers(0, 3, 7)
    real, other = rng.normal(0, 3, (2, 7, 1))
    outputs = {
        "source": logits,
        "target": logits,
        "source_domain": real,
        "target_domain": other,
    }
    outputs = {k: v.astype("float32") for k, v in outputs.items()}
    expected = log_loss(labels, logits)
    z, domain = np.concatenate([real, other]), np.repeat([1, 0], 7)[:, None]
    p = 1 / (1 + np.exp(-z))
    told = -(domain * np.log(p) + (1 - domain) * np.log(1 - p)).mean()
    loss = given.loss({"source": labels}, outputs)
    assert float(loss) == pytest.approx(expected + told, rel=1e-5)


def test_the_discriminator_has_the_width_that_is_asked_for(given_to_fit):
    given = given_to_fit(
        domain_adversarial, *domains(), from_source=True, hidden_units=5
    )
    kernels = [
        given.model.get_layer(name).kernel.shape
        for name in ("domain_hidden", "domain")
    ]
    assert kernels == [(8, 5), (5, 1)]

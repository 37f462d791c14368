"""CDAN: the discriminator reads features by belief; it moves no head."""

import numpy as np
import pytest
from helpers import bytes_of, domains, gradients, softmax, weights_of
from keras import ops

from ktransfer.engine.losses import cross_entropy
from ktransfer.methods.domain import conditional_adversarial, source_only
from ktransfer.methods.domain.conditional_adversarial import _joint, transfer

OPTIONS = {"steps": 3, "seed": 0, "batch_size": 8, "from_source": True}


def test_the_product_sums_to_the_features_over_the_classes():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(6, 5)).astype("float32")
    logits = rng.normal(0, 3, (6, 4)).astype("float32")
    product = np.asarray(_joint(features, logits, 0)).reshape(6, 5, 4)
    np.testing.assert_allclose(product.sum(-1), features, rtol=1e-5)
    expected = features[:, :, None] * softmax(logits)[:, None, :]
    np.testing.assert_allclose(product, expected, rtol=1e-5)


def test_a_wide_product_is_projected_alike_in_both_domains(monkeypatch):
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 3, 50)).astype("float32")
    logits = rng.normal(size=(3, 100)).astype("float32")
    # At 4096 the product itself is read, above it 1024 values.
    assert _joint(first[:, :40], logits, 0).shape == (3, 4000)
    found = [np.asarray(_joint(x, logits, 0)) for x in (first, second)]
    assert found[0].shape == (3, 1024)
    # It is linear in the features, by the same numbers for both domains.
    both = np.asarray(_joint(first + second, logits, 0))
    np.testing.assert_allclose(both, sum(found), atol=1e-4)
    assert np.abs(np.asarray(_joint(first, logits, 1)) - found[0]).max() > 0.1
    # Its products are those of the outer products, up to sampling error.
    monkeypatch.setattr(conditional_adversarial, "_NUM_PROJECTIONS", 40000)
    wide = np.asarray(_joint(first, logits, 0), "float64")
    beliefs = softmax(logits)
    expected = (first @ first.T) * (beliefs @ beliefs.T)
    scale = np.diag(expected).max()
    np.testing.assert_allclose(wide @ wide.T, expected, atol=0.1 * scale)


@pytest.mark.parametrize("normalised", [False, True])
def test_strength_zero_is_source_only(normalised):
    world = domains(normalised)
    model = transfer(*world, strength=0, entropy_weights=True, **OPTIONS)
    plain = source_only.transfer(*world, **OPTIONS)
    assert bytes_of(model) == bytes_of(plain)


def test_the_discriminator_is_not_in_the_result():
    world = domains()
    model = transfer(*world, **OPTIONS)
    plain = source_only.transfer(*world, **OPTIONS)
    assert weights_of(model).keys() == weights_of(plain).keys()
    assert bytes_of(model) != bytes_of(plain)


@pytest.mark.parametrize("entropy_weights", [False, True])
def test_no_gradient_of_the_discriminator_reaches_the_head(
    given_to_fit, entropy_weights
):
    target, source = domains()
    given = given_to_fit(
        conditional_adversarial,
        target,
        source,
        from_source=True,
        entropy_weights=entropy_weights,
    )
    model, (x, y) = given.model, source.task.train
    assert model.get_layer("domain_hidden").kernel.shape == (8 * 3, 100)
    progress = np.full((48, 1), 0.4, "float32")
    images = {"target": target.train.x, "source": x, "progress": progress}

    def penalty():
        outputs = model(images)
        supervised = cross_entropy(y, outputs["source"])
        return given.loss({"source": y}, outputs) - supervised

    def told():
        """Return the loss of D with constant beliefs, nothing reversed."""
        hidden = model.get_layer("domain_hidden")
        answer = model.get_layer("domain")
        outputs, total = model(images), 0.0
        for name, is_source in (("source", 1), ("target", 0)):
            beliefs = softmax(outputs[name]).astype("float32")
            product = ops.einsum(
                "bd,bk->bdk", outputs[f"{name}_features"], beliefs
            )
            p = ops.sigmoid(answer(hidden(ops.reshape(product, (48, 24)))))
            weights = np.ones((48, 1), "float32")
            if entropy_weights:
                entropy = -(beliefs * np.log(beliefs)).sum(-1, keepdims=True)
                weights = 1 + np.exp(-entropy)
            errors = weights * -ops.log(p if is_source else 1 - p)
            total += ops.sum(errors) / weights.sum() / 2
        return total

    assert float(penalty()) == pytest.approx(float(told()), rel=1e-4)
    found, domain = gradients(model, penalty), gradients(model, told)
    growth = 2 / (1 + np.exp(-4)) - 1
    for path, slope in found.items():
        if "logits" in path:
            assert not slope.any()
        else:
            factor = 1 if "domain" in path else -growth
            expected = factor * domain[path]
            np.testing.assert_allclose(slope, expected, atol=2e-5)
            assert np.abs(slope).max() > 1e-6


def test_sure_images_weigh_up_to_twice_as_much():
    sure, unsure = np.float32([[50, 0, 0], [1, 1, 1]])
    weights = conditional_adversarial._certainty(np.stack([sure, unsure]))
    np.testing.assert_allclose(weights, [[2], [1 + 1 / 3]], rtol=1e-6)

"""Interpolation: its ends are two other methods, and between them a mix."""

import numpy as np
import pytest
from helpers import bytes_of, defaults, norms_of, small_world

from ktransfer.engine.prediction import predict
from ktransfer.methods.parameter import fine_tuning
from ktransfer.methods.parameter.interpolation import transfer
from ktransfer.methods.structure import structure_transfer
from ktransfer.models.surgery import copy_backbone, cut, fresh


@pytest.mark.parametrize(
    ("alpha", "end"), [(1, fine_tuning), (0, structure_transfer)]
)
def test_its_ends_are_fine_tuning_and_structure_transfer(alpha, end):
    target, source = small_world(normalised=True)
    options = {"steps": 4, "seed": 5, "batch_size": 16}
    model = transfer(target, source, alpha=alpha, **options)
    assert bytes_of(model) == bytes_of(end.transfer(target, source, **options))


def test_before_training_every_backbone_variable_is_the_mix():
    target, source = small_world()
    model = transfer(target, source, steps=0, seed=5, alpha=0.25)
    backbone = cut(model, "features")
    theirs = copy_backbone(source.model)
    initial = fresh(theirs, 5)
    for mine, old, new in zip(
        backbone.weights, theirs.weights, initial.weights
    ):
        wanted = 0.25 * old.numpy() + 0.75 * new.numpy()
        np.testing.assert_allclose(mine, wanted, rtol=1e-6, atol=1e-7)


def test_between_the_ends_batchnorm_has_the_statistics_of_the_target():
    target, source = small_world(normalised=True)
    model = transfer(target, source, steps=0, seed=5, alpha=0.5)
    norms = norms_of(model)
    assert len(norms) == 3
    assert all((norm.moving_variance.numpy() > 0).all() for norm in norms)
    seen = predict(cut(model, "block1_conv"), target.train.x)
    np.testing.assert_allclose(
        norms[0].moving_mean, seen.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        norms[0].moving_variance, seen.var(axis=(0, 1, 2)), rtol=1e-3, atol=1e-6
    )


def test_the_default_is_the_articles():
    assert defaults(transfer)["alpha"] == 0.5

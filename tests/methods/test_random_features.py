"""Random features: the source's architecture, none of its weights, frozen."""

from helpers import bytes_of, small_task, small_world

from ktransfer.engine.prediction import predict
from ktransfer.methods.baselines.random_features import transfer
from ktransfer.methods.feature import feature_extraction
from ktransfer.models import backbones
from ktransfer.models.blocks import blocks
from ktransfer.models.own import Source
from ktransfer.models.surgery import attach_head, copy_backbone, cut, fresh


def test_the_backbone_is_fresh_frozen_and_untouched():
    target, source = small_world()
    model = transfer(target, source, steps=4, seed=5, batch_size=16)
    backbone = cut(model, "features")
    expected = fresh(copy_backbone(source.model), 5)
    assert bytes_of(backbone) == bytes_of(expected)
    own, theirs = blocks(model), blocks(source.model)
    for name in ("block1", "block2", "block3"):
        kernel = own[name][0].kernel.numpy()
        assert (kernel != theirs[name][0].kernel.numpy()).mean() > 0.99
        assert not own[name][0].trainable


def test_it_is_feature_extraction_from_a_source_with_these_weights():
    target, source = small_world()
    random = fresh(copy_backbone(source.model), 5)
    untrained = Source(attach_head(random, 3, seed=0), source.task)
    first = transfer(target, source, steps=4, seed=5, batch_size=16)
    second = feature_extraction.transfer(
        target, untrained, steps=4, seed=5, batch_size=16
    )
    assert bytes_of(first) == bytes_of(second)


def test_untrained_statistics_let_no_feature_through_at_its_scale():
    """At (0, 1) features of a deep network had a deviation of .0016."""
    target = small_task("target", 1)
    deep = backbones.vgg((12, 12, 3), filters=(8, 8, 8))
    source = Source(attach_head(deep, 3, seed=0), small_task("source", 3))

    def deviation(**options):
        model = transfer(target, source, steps=0, seed=5, **options)
        features = predict(cut(model, "features"), target.train.x)
        return features.std()

    assert deviation() > 5 * deviation(statistics="trained")
    assert deviation(statistics="frozen") == deviation(statistics="trained")

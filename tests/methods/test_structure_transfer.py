"""Structure transfer: the same layers as the source, not one of its kernels."""

import keras
from helpers import bytes_of, small_task, small_world

from ktransfer.methods.baselines import scratch
from ktransfer.methods.structure.structure_transfer import transfer
from ktransfer.models import backbones
from ktransfer.models.graph import leaves
from ktransfer.models.own import Source
from ktransfer.models.surgery import attach_head, cut, trainable_count


def test_the_layers_are_the_sources_and_the_weights_are_not():
    target = small_task("target", 3)
    _, source = small_world(normalised=True)
    model = transfer(target, source, steps=0, seed=5)
    ours, theirs = (leaves(cut(m, "features")) for m in (model, source.model))
    assert [(type(x), x.name) for x in ours] == [
        (type(x), x.name) for x in theirs
    ]
    for own, other in zip(ours, theirs):
        assert [v.shape for v in own.weights] == [
            v.shape for v in other.weights
        ]
        if isinstance(own, keras.layers.Conv2D):
            equal = own.kernel.numpy() == other.kernel.numpy()
            assert equal.mean() < 0.01
    assert model.get_layer("logits").kernel.shape == (8, 3)
    statistics = [v for x in ours for v in x.non_trainable_variables]
    count = sum(v.numpy().size for v in statistics)
    assert trainable_count(model) == model.count_params() - count


def test_on_the_default_architecture_it_is_scratch_bit_for_bit():
    target = small_task("target", 1)
    task = small_task("source", 3, size=32)
    trained = attach_head(backbones.convnet(seed=7), 3, seed=7, hidden_units=6)
    options = {"steps": 3, "seed": 2, "batch_size": 4}
    ours = transfer(target, Source(trained, task), **options)
    theirs = scratch.transfer(target, **options)
    assert bytes_of(ours) == bytes_of(theirs)

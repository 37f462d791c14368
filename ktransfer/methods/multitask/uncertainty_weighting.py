"""Uncertainty weighting: hard sharing whose task weights are learned too.

L = sum over tasks of L_i / (2 exp s_i) + s_i / 2, s_i the log variance of task
i, one learned number. A task's weight settles where exp(s_i) = L_i. Both start
at `initial` (LibMTL's value); `learned` False keeps them there. They are never
decayed and not in the result. `from_source` and BatchNorm as in hard sharing.

Row: M23 (articles 002, 003).
Source: Kendall, Gal and Cipolla 2018. https://arxiv.org/abs/1705.07115
"""

import functools

import keras
from keras import ops

from ktransfer.engine.kinds import Number
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.training import fit
from ktransfer.stages.streams import first_backbone, two_streams


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    initial: Number = -0.5,
    learned: bool = True,
    from_source: bool = False,
    **training,
):
    backbone = first_backbone(source, seed=seed, from_source=from_source)
    both = two_streams(target, source, backbone, backbone, seed=seed)
    scales = {
        name: _LogVariance(initial, trainable=learned, name=f"{name}_scale")
        for name in both.output
    }
    outputs = {name: scales[name](x) for name, x in both.output.items()}

    def loss(labels, outputs):
        losses = {i: cross_entropy(labels[i], outputs[i]) for i in scales}
        return sum(_weighted(losses[i], scales[i].log_variance) for i in scales)

    if callable(build := training.get("optimizer")):
        training["optimizer"] = functools.partial(_without_decay, build)
    model = both.get_layer("target_network")
    fit(
        keras.Model(both.input, outputs),
        {"target": target.train, "source": source.task.train},
        steps=steps,
        seed=seed,
        loss=loss,
        served=(model, target.train.x),
        **training,
    )
    return model


def _without_decay(build, learning_rate):
    """Return a Keras optimiser that decays weights, but no log variance."""
    optimizer = build(learning_rate)
    optimizer.exclude_from_weight_decay(var_names=["log_variance"])
    return optimizer


def _weighted(loss, log_variance):
    return loss / (2 * ops.exp(log_variance)) + log_variance / 2


@keras.saving.register_keras_serializable("ktransfer")
class _LogVariance(keras.layers.Layer):
    """Logits as they are; the layer owns the log variance of their task."""

    def __init__(self, initial=-0.5, **kwargs):
        super().__init__(**kwargs)
        self.initial = initial

    def build(self, shape):
        start = keras.initializers.Constant(self.initial)
        self.log_variance = self.add_weight((), start, name="log_variance")

    def call(self, logits):
        return logits

    def get_config(self):
        return {**super().get_config(), "initial": self.initial}

    def as_builtins(self):
        return self.call

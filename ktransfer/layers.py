"""Layers that the suite adds to Keras; all of them save and load."""

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable("ktransfer")
class Luminance(keras.layers.Layer):
    """RGB -> grey by the luma weights of ITU-R BT.601."""

    def call(self, inputs):
        weights = ops.convert_to_tensor([0.299, 0.587, 0.114])
        grey = ops.tensordot(ops.cast(inputs, "float32"), weights, axes=1)
        return grey[..., None]

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((*inputs.shape[:-1], 1), "float32")


@keras.saving.register_keras_serializable("ktransfer")
class InferenceMode(keras.layers.Layer):
    """A model that always runs in inference mode, whatever calls it.

    BatchNorm uses and keeps its moving statistics while the weights around it
    may train; dropout is off. `training=False` at the call cannot do that: the
    outer model overrides it when the graph is replayed.

    Args:
        model: the Keras model to own; input and output structure are its own.
    """

    def __init__(self, model, **kwargs):
        super().__init__(**kwargs)
        self.model = model

    def call(self, inputs):
        return self.model(inputs, training=False)

    def compute_output_spec(self, inputs):
        return self.model.compute_output_spec(inputs)

    def get_config(self):
        model = keras.saving.serialize_keras_object(self.model)
        return {**super().get_config(), "model": model}

    @classmethod
    def from_config(cls, config):
        model = keras.saving.deserialize_keras_object(config.pop("model"))
        return cls(model, **config)


@keras.saving.register_keras_serializable("ktransfer")
class FeatureNoise(keras.layers.Layer):
    """Adds Gaussian noise in training; in inference it does nothing.

    Keras's GaussianNoise refuses a deviation above 1, which features have.

    Args:
        deviation: standard deviation of the noise, at least 0.
        seed: of the noise.
    """

    def __init__(self, deviation, seed, **kwargs):
        super().__init__(**kwargs)
        self.deviation = deviation
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=False):
        if not training:
            return inputs
        shape, dtype = ops.shape(inputs), inputs.dtype
        noise = keras.random.normal(shape, dtype=dtype, seed=self.generator)
        return inputs + self.deviation * noise

    def compute_output_spec(self, inputs, training=False):
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def get_config(self):
        own = {"deviation": self.deviation, "seed": self.seed}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("ktransfer")
class CrossStitch(keras.layers.Layer):
    """Two tensors of equal shape -> two learned mixtures of them.

    Args:
        own_share: of either tensor in its own mixture, at the start.
    """

    def __init__(self, own_share=0.9, **kwargs):
        super().__init__(**kwargs)
        self.own_share = own_share

    def build(self, shapes):
        own, other = self.own_share, 1 - self.own_share
        start = keras.initializers.Constant([[own, other], [other, own]])
        self.shares = self.add_weight((2, 2), start, name="shares")

    def call(self, features):
        first, second = features
        a = self.shares
        return [a[i, 0] * first + a[i, 1] * second for i in (0, 1)]

    def get_config(self):
        return {**super().get_config(), "own_share": self.own_share}


@keras.saving.register_keras_serializable("ktransfer")
class SoftmaxSum(keras.layers.Layer):
    """The sum of its inputs under the softmax of one scalar each.

    Args:
        weights: proportions, which are then not trained; None learns them,
            from equal ones on.
    """

    def __init__(self, weights=None, **kwargs):
        super().__init__(**kwargs)
        self.fixed = weights
        self.trainable = weights is None

    def build(self, shapes):
        start = np.log(self.fixed or np.ones(len(shapes)))
        self.scalars = self.add_weight(
            shape=(len(shapes),),
            initializer=lambda shape, dtype: ops.convert_to_tensor(
                start, dtype
            ),
            name="scalars",
        )

    def call(self, inputs):
        shares = ops.softmax(self.scalars)
        return sum(shares[i] * x for i, x in enumerate(inputs))

    def shares(self):
        """Return the weights of the sum, `(num_inputs,)`, which sum to 1."""
        return np.asarray(ops.softmax(self.scalars))

    def get_config(self):
        return {**super().get_config(), "weights": self.fixed}

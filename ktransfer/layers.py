"""Layers that the suite adds to Keras; all of them save and load."""

import keras
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
class Beside(keras.layers.Layer):
    """Returns the second of two tensors: a frozen one, beside a live one.

    `fit` turns what is frozen into inputs of the graph that it trains, and
    Keras takes no such input for an output. A frozen tensor that the loss
    reads therefore leaves its graph through here.
    """

    def call(self, inputs):
        _, given = inputs
        return given

    def compute_output_spec(self, inputs):
        _, given = inputs
        return keras.KerasTensor(given.shape, given.dtype)

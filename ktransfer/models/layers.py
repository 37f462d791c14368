"""Layers that the suite adds to Keras; all of them save and load.

Each has a method `as_builtins`: what takes its place where only Keras is. It
returns what computes the same in inference, of Keras's own layers and
operations: a layer, a model, or a function of what `call` takes. It is asked
of a copy, whose parts may be given away.
"""

import inspect

import keras
import numpy as np
from keras import layers, ops

_LUMA = [0.299, 0.587, 0.114]


@keras.saving.register_keras_serializable("ktransfer")
class Luminance(layers.Layer):
    """RGB -> grey by the luma weights of ITU-R BT.601."""

    def call(self, inputs):
        weights = ops.convert_to_tensor(_LUMA)
        grey = ops.tensordot(ops.cast(inputs, "float32"), weights, axes=1)
        return grey[..., None]

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((*inputs.shape[:-1], 1), "float32")

    def as_builtins(self):
        # The same product, since pixels that are a half get rounded next.
        def grey(inputs):
            weights = np.array(_LUMA, "float32")
            x = ops.tensordot(ops.cast(inputs, "float32"), weights, axes=1)
            return ops.expand_dims(x, -1)

        return grey


@keras.saving.register_keras_serializable("ktransfer")
class EqualChannels(layers.Layer):
    """Grey -> RGB by three equal channels, of the pixels' own type."""

    def call(self, inputs):
        return ops.broadcast_to(inputs, (*ops.shape(inputs)[:-1], 3))

    def compute_output_spec(self, inputs):
        return keras.KerasTensor((*inputs.shape[:-1], 3), inputs.dtype)

    def as_builtins(self):
        return lambda inputs: ops.repeat(inputs, 3, axis=-1)


@keras.saving.register_keras_serializable("ktransfer")
class Pixels(layers.Layer):
    """Rounds to the nearest pixel value, as uint8.

    Behind what computes in floats a network would read fractions where its
    graph is inlined, and whole numbers where it is one layer.
    """

    def call(self, inputs):
        whole = ops.round(ops.clip(inputs, 0, 255))
        return ops.cast(whole, "uint8")

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, "uint8")

    def as_builtins(self):
        return self.call


@keras.saving.register_keras_serializable("ktransfer")
class InferenceMode(layers.Layer):
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

    def as_builtins(self):
        return self.model

    def get_config(self):
        model = keras.saving.serialize_keras_object(self.model)
        return {**super().get_config(), "model": model}

    @classmethod
    def from_config(cls, config):
        model = keras.saving.deserialize_keras_object(config.pop("model"))
        return cls(model, **config)


@keras.saving.register_keras_serializable("ktransfer")
class FeatureNoise(layers.Layer):
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

    def as_builtins(self):
        return lambda inputs, training=False: inputs

    def get_config(self):
        own = {"deviation": self.deviation, "seed": self.seed}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("ktransfer")
class SoftmaxSum(layers.Layer):
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

    def as_builtins(self):
        parts = [
            layers.Rescaling(float(share), name=f"{self.name}_{number}")
            for number, share in enumerate(self.shares())
        ]
        add = layers.Add(name=self.name)
        return lambda inputs: add([f(x) for f, x in zip(parts, inputs)])

    def get_config(self):
        return {**super().get_config(), "weights": self.fixed}


@keras.saving.register_keras_serializable("ktransfer")
class GradientReversal(layers.Layer):
    """The identity, whose gradient is multiplied by -strength.

    It takes [x, strength], the strength `(batch, 1)` or a scalar; exact
    forwards, and no gradient reaches the strength.
    Source: Ganin and Lempitsky 2015, section 3, arXiv:1409.7495.
    """

    def call(self, inputs):
        x, strength = inputs
        constant = ops.stop_gradient(x)
        # The difference is 0 forwards and x backwards.
        return constant - ops.stop_gradient(strength) * (x - constant)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs[0].shape, inputs[0].dtype)

    def as_builtins(self):
        return lambda inputs: inputs[0]


@keras.saving.register_keras_serializable("ktransfer")
class StochasticNormalization(layers.Layer):
    """A BatchNorm whose channels mix both kinds of statistics in training.

    At each step a channel is normalised by the statistics of the batch with
    `probability`, else by the moving ones as they were before the step, which
    then are updated. In inference it is the BatchNorm.

    Args:
        norm: the BatchNormalization to own.
        probability: 0 to 1.
        seed: of the draws.
    """

    def __init__(self, norm, probability, seed, **kwargs):
        super().__init__(**kwargs)
        self.norm = norm
        self.probability = probability
        self.seed = seed
        self.generator = keras.random.SeedGenerator(seed)

    def build(self, shape):
        if not self.norm.built:
            self.norm.build(shape)

    @property
    def moving_mean(self):
        return self.norm.moving_mean

    @property
    def moving_variance(self):
        return self.norm.moving_variance

    def call(self, inputs, training=False, mask=None):
        by_moving = self.norm(inputs, training=False, mask=mask)
        if not training:
            return by_moving
        by_batch = self.norm(inputs, training=True, mask=mask)
        shape = [1] * len(inputs.shape)
        shape[self.norm.axis] = inputs.shape[self.norm.axis]
        draws = keras.random.uniform(shape, seed=self.generator)
        return ops.where(draws < self.probability, by_batch, by_moving)

    def compute_output_spec(self, inputs, training=False, mask=None):
        return keras.KerasTensor(inputs.shape, self.compute_dtype)

    def as_builtins(self):
        self.norm.name = self.name
        return self.norm

    def get_config(self):
        norm = keras.saving.serialize_keras_object(self.norm)
        own = {"norm": norm, "probability": self.probability}
        return {**super().get_config(), **own, "seed": self.seed}

    @classmethod
    def from_config(cls, config):
        norm = keras.saving.deserialize_keras_object(config.pop("norm"))
        return cls(norm, **config)


@keras.saving.register_keras_serializable("ktransfer")
class LowRank(layers.Layer):
    """A frozen layer with a trained update of its kernel W.

    It gives what the layer gives with W + (alpha / rank) A B for W. A reduces
    the inputs to `rank` values and is drawn, B expands them and starts at 0.
    Of attention, the kernels of query and value have an update each, whose
    outputs are those of all heads.

    Args:
        layer: the Dense, Conv2D or MultiHeadAttention to own and freeze, bias
            included.
        rank: a whole number of at least 1.
        alpha: the factor of the update at rank 1.
        seed: of A.
    """

    def __init__(self, layer, rank, alpha, seed, **kwargs):
        super().__init__(**kwargs)
        self.layer = layer
        # An assignment that changes nothing is skipped, and with it the parts
        # of a frozen attention that loading has built.
        self.layer.trainable = True
        self.layer.trainable = False
        self.rank, self.alpha, self.seed = rank, alpha, seed
        # It is called as the layer is, attention with its own words.
        self._call_signature = inspect.signature(layer.call)

    def build(self, shape):
        if not self.layer.built:
            self.layer.build(shape)
        self.reduce, self.expand = [], []
        for number, part in enumerate(self._adapted()):
            width = part.kernel.shape
            # Of attention, what comes out is heads and their values.
            split = 1 if self._is_attention() else len(width) - 1
            # Uniform within 1 / sqrt(fan in), as in the peft library.
            start = keras.initializers.VarianceScaling(
                1 / 3, "fan_in", "uniform", seed=self.seed + number
            )
            self.reduce.append(
                self.add_weight(
                    (*width[:split], self.rank), start, name=f"reduce_{number}"
                )
            )
            self.expand.append(
                self.add_weight(
                    (self.rank, *width[split:]),
                    "zeros",
                    name=f"expand_{number}",
                )
            )

    def _is_attention(self):
        return isinstance(self.layer, layers.MultiHeadAttention)

    def _adapted(self):
        """Return the layers whose kernels are updated."""
        if self._is_attention():
            return [self.layer.query_dense, self.layer.value_dense]
        return [self.layer]

    def updated(self):
        """Return pairs (kernel of the layer, what takes its place)."""
        scale = self.alpha / self.rank
        return [
            (part.kernel, part.kernel + scale * ops.tensordot(a, b, axes=1))
            for part, a, b in zip(self._adapted(), self.reduce, self.expand)
        ]

    def call(self, *args, **kwargs):
        places = {id(kernel): value for kernel, value in self.updated()}
        before = self.layer.non_trainable_variables
        values = [places.get(id(v), v) for v in before]
        outputs, after = self.layer.stateless_call([], values, *args, **kwargs)
        weights = {id(v) for v in self.layer.weights}
        for variable, value in zip(before, after):
            # The seed of a dropout goes on.
            if id(variable) not in weights:
                variable.assign(value)
        return outputs

    def compute_output_spec(self, *args, **kwargs):
        return self.layer.compute_output_spec(*args, **kwargs)

    def merge(self):
        """Move the updates into the layer's own kernels."""
        for kernel, value in self.updated():
            kernel.assign(value)
        for expand in self.expand:
            expand.assign(ops.zeros_like(expand))

    def as_builtins(self):
        self.merge()
        self.layer.name = self.name
        return self.layer

    def get_config(self):
        layer = keras.saving.serialize_keras_object(self.layer)
        own = {"layer": layer, "rank": self.rank, "alpha": self.alpha}
        return {**super().get_config(), **own, "seed": self.seed}

    @classmethod
    def from_config(cls, config):
        layer = keras.saving.deserialize_keras_object(config.pop("layer"))
        return cls(layer, **config)


@keras.saving.register_keras_serializable("ktransfer")
class KernelComponents(layers.Layer):
    """Features x `(batch, d)` -> k(x) W + b, k a kernel to points it keeps.

    k_i(x) = exp(-|x - point_i|^2 / width). Nothing of it is trained; its
    weights are set: points `(num_points, d)`, W and b.

    Args:
        num_points, num_components: the shape of W.
        width: of the kernel, a squared distance above 0.
    """

    def __init__(self, num_points, num_components, width, **kwargs):
        super().__init__(**kwargs)
        self.trainable = False
        self.num_points, self.num_components = num_points, num_components
        self.width = width

    def build(self, shape):
        shapes = {
            "points": (self.num_points, shape[-1]),
            "projection": (self.num_points, self.num_components),
            "shift": (self.num_components,),
        }
        self.points, self.projection, self.shift = (
            self.add_weight(size, "zeros", trainable=False, name=name)
            for name, size in shapes.items()
        )

    def call(self, inputs):
        # Distances are small against norms unless the points are centred.
        centre = ops.mean(self.points, axis=0)
        x, points = inputs - centre, self.points - centre
        squares = (
            ops.sum(ops.square(x), axis=1, keepdims=True)
            - 2 * ops.matmul(x, ops.transpose(points))
            + ops.sum(ops.square(points), axis=1)
        )
        kernel = ops.exp(-ops.maximum(squares, 0.0) / self.width)
        return ops.matmul(kernel, self.projection) + self.shift

    def as_builtins(self):
        centre = np.asarray(ops.mean(self.points, axis=0))
        points = self.points.numpy() - centre
        sizes = np.asarray(ops.sum(ops.square(points), axis=1))
        near = layers.Dense(
            self.num_points, use_bias=False, name=f"{self.name}_points"
        )
        near.build((None, len(centre)))
        near.set_weights([2 * points.T])
        project = layers.Dense(self.num_components, name=self.name)
        project.build((None, self.num_points))
        project.set_weights([self.projection, self.shift])

        def components(inputs):
            x = inputs - centre
            size = ops.sum(ops.square(x), axis=1, keepdims=True)
            squares = size - near(x) + sizes
            return project(ops.exp(-ops.maximum(squares, 0.0) / self.width))

        return components

    def get_config(self):
        own = {
            "num_points": self.num_points,
            "num_components": self.num_components,
            "width": self.width,
        }
        return {**super().get_config(), **own}

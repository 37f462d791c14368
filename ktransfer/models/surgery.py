"""Cut, copy, freeze, adapt and mix Keras models: layers and weights, no data.

Layers are chosen by block or by name, through nested models; never by index.
A copy shares nothing with its original, and a container is never frozen: the
`trainable` flag is set on leaf layers, so that a flat and a nested model with
the same layers behave alike.
"""

import keras
import numpy as np
from keras import layers

from ktransfer.errors import KTransferError, NotApplicable, unknown
from ktransfer.models import blocks, graph
from ktransfer.models.graph import leaves
from ktransfer.models.layers import EqualChannels, Luminance, Pixels
from ktransfer.seeds import stream

# Reading a model


def inline(model, tap=None):
    """Return `model` as one flat functional model that shares its layers.

    Args:
        model: functional or Sequential, nested to any depth.
        tap: names of blocks or layers; when given, the outputs of the flat
            model are a dictionary, name -> what the block ends with, or the
            output of that layer. A name of both is the block's.

    Raises:
        KTransferError: `E_ARGUMENT` for a subclassed model, `E_UNKNOWN` for a
            name that no layer has.
    """
    flat = graph.read(model)
    if tap is not None:
        flat = flat._replace(outputs=tapped(flat, tap))
    return _rebuilt(flat, model.name)


def cut(model, layer):
    """Return `model` up to the output of `layer` (a block's or layer's name).

    The layers are shared with `model`; `copy` what is to be trained.
    """
    flat = graph.read(model)
    end = tapped(flat, [layer])[layer]
    return _rebuilt(flat._replace(outputs=end), model.name)


def _rebuilt(flat, name):
    """Return the functional model of a `Graph`, on inputs of its own."""

    def fresh_input(place):
        x = flat.tensors[place.number]
        shape = (None, *x.shape[1:])
        return keras.Input(batch_shape=shape, dtype=x.dtype, name=x.name)

    inputs = keras.tree.map_structure(fresh_input, flat.inputs)
    outputs = graph.run(flat, inputs, graph.call)
    return keras.Model(inputs, outputs, name=name)


def _lone(outputs):
    return outputs[0] if len(outputs) == 1 else outputs


def tapped(flat, names):
    """Return the `Tensor` that each block or layer of a `Graph` ends with.

    A layer of several outputs gives them all.

    Raises:
        KTransferError: `E_UNKNOWN` for a name that no layer has.
    """
    ends = {name: block.end for name, block in blocks.in_graph(flat).items()}
    made = {n.operation.name: _lone(n.outputs) for n in flat.nodes}
    places = {**made, **ends}
    for name in names:
        if name not in places:
            raise unknown("layer", name, places)
    return {name: places[name] for name in names}


# Copying


def copy(model, name=None):
    """Return a thawed copy of `model`: weights included, nothing shared.

    Raises:
        KTransferError: `E_ARGUMENT` for a Lambda layer, whose code cannot be
            copied.
    """
    _refuse_lambdas(model)
    config = model.get_config()
    config["name"] = name or model.name
    clone = type(model).from_config(config)
    assign(clone, [variable.numpy() for variable in model.variables])
    unfreeze(clone)
    return clone


def _refuse_lambdas(model):
    for layer in leaves(model):
        if isinstance(layer, layers.Lambda):
            raise KTransferError(
                "E_ARGUMENT",
                f"layer {layer.name!r} of {model.name!r} is a Lambda, whose "
                "code can be neither copied nor saved safely; expected Keras "
                "layers. Put what it computes into `keras.ops` calls or into "
                "a layer of a class of your own.",
            )


def assign(model, values):
    """Set all variables of `model`, or none.

    Layers that are adapted to data take over what they were adapted to.

    Args:
        values: arrays in the order of `model.variables`, of equal shapes.

    Raises:
        KTransferError: `E_WEIGHTS` if one does not fit.
    """
    _check_values(model, values)
    for variable, value in zip(model.variables, values):
        variable.assign(value)
    for layer in leaves(model):
        if graph.is_adapted(layer):
            # It computes with constants that it makes of its variables.
            layer.finalize_state()


def _check_values(model, values):
    """Refuse values that are not of the shapes of the model's variables."""
    shapes = [tuple(variable.shape) for variable in model.variables]
    given = [np.shape(value) for value in values]
    if shapes != given:
        first = next(
            (i for i, (a, b) in enumerate(zip(shapes, given)) if a != b),
            min(len(shapes), len(given)),
        )
        raise KTransferError(
            "E_WEIGHTS",
            f"weights do not fit {model.name!r}: {len(given)} arrays for "
            f"{len(shapes)} variables, the first mismatch at number {first}; "
            "expected the weights of the same architecture.",
        )


def copy_backbone(model, name="backbone", layer="features"):
    """Return a thawed copy of `model` up to `layer`, raw images -> features."""
    return copy(cut(model, layer), name)


def fresh(model, seed, name=None):
    """Return the architecture of `model` with fresh weights under `seed`.

    Each initialiser and each random layer gets its own stream, named after
    its layer, so that one layer more leaves the weights of the others alone.
    Layers that are adapted to data stay as they are.
    """
    _refuse_lambdas(model)
    config = _seeded(model.get_config(), seed, "")
    config["name"] = name or model.name
    clone = type(model).from_config(config)
    values = [variable.numpy() for variable in clone.variables]
    kept = _adapted_variables(model)
    for place, variable in enumerate(model.variables):
        if id(variable) in kept:
            values[place] = variable.numpy()
    if kept:
        assign(clone, values)
    unfreeze(clone)
    return clone


def _adapted_variables(model):
    """Return the ids of the variables of layers that are adapted to data."""
    adapted = [x for x in leaves(model) if graph.is_adapted(x)]
    return {id(variable) for x in adapted for variable in x.variables}


def _seeded(node, seed, layer):
    if isinstance(node, list | tuple):
        return type(node)(_seeded(item, seed, layer) for item in node)
    if not isinstance(node, dict):
        return node
    if "class_name" in node and "name" in (node.get("config") or {}):
        layer = node["config"]["name"]
    fixed = {}
    for key, value in node.items():
        if key.endswith("_initializer") and isinstance(value, dict):
            own = stream(seed, "init", layer, key)
            fixed[key] = _seeded_initializer(value, own)
        elif key == "seed":
            fixed[key] = stream(seed, "dropout", layer)
        else:
            fixed[key] = _seeded(value, seed, layer)
    return fixed


def _seeded_initializer(value, seed):
    config = value.get("config") or {}
    if "seed" not in config:
        return value
    return {**value, "config": {**config, "seed": seed}}


def load_model(path):
    """Return the Keras model saved at `path`, with the layers of the suite.

    Only for a file that the user names: the suite's own weights are `.npz`.

    Raises:
        KTransferError: `E_WEIGHTS` if it cannot be read.
    """
    from ktransfer.models import handmade  # noqa: F401  (registers its layer)

    try:
        return keras.saving.load_model(path, safe_mode=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise KTransferError(
            "E_WEIGHTS",
            f"{path} cannot be loaded as a Keras model ({error}); expected a "
            "file that `model.save` wrote.",
        ) from error


# Building


def attach_head(model, num_classes, *, seed, hidden_units=None, name=None):
    """Return images -> logits: a fresh head on the output of `model`.

    Args:
        model: any model with one output; a map is flattened first.
        num_classes: width of the logits.
        seed: of the head's initial weights.
        hidden_units: width of a ReLU layer `head_hidden` before `logits`, or
            None for a linear head.
        name: of the result; default the name of `model` and `_with_head`.
    """
    head = [head_layer(num_classes, "logits", seed)]
    if hidden_units:
        head.insert(0, head_layer(hidden_units, "head_hidden", seed, "relu"))
    return with_head(model, *head, name=name)


def with_head(model, *head, name=None):
    """Return `model` under the layers of `head`, one after the other.

    Args:
        model: any model with one output; a map is flattened first.
        head: layers or models, features -> ... -> logits.
        name: as in `attach_head`.
    """
    inputs = keras.Input(model.input.shape[1:], dtype=model.input.dtype)
    x = model(inputs)
    if len(x.shape) > 2:
        x = layers.Flatten(name="head_flatten")(x)
    for layer in head:
        x = layer(x)
    return keras.Model(inputs, x, name=name or f"{model.name}_with_head")


def classifier(backbone, target, *, seed, hidden_units=None, name=None):
    """Return raw images of `target` -> logits: adapter, `backbone`, fresh head.

    Args:
        backbone: images -> features, of any input that `adapt_input` reaches.
        target: the `Task`.
        seed, hidden_units, name: as in `attach_head`.
    """
    return attach_head(
        adapt_input(backbone, target.image_shape),
        target.num_classes,
        seed=seed,
        hidden_units=hidden_units,
        name=name,
    )


def head_layer(units, name, seed, activation=None):
    """Return a new Dense layer with the seeded initial weights of its name."""
    return layers.Dense(
        units,
        activation=activation,
        kernel_initializer=keras.initializers.GlorotUniform(
            stream(seed, "head", name)
        ),
        name=name,
    )


def adapt_input(model, image_shape):
    """Return `model` behind layers that take raw images of `image_shape`.

    Colour to grey goes by luminance, grey to colour by three equal channels.
    Images that are smaller by less than half get a border of zeros, all
    others are resized (bilinear). What comes out is rounded to whole pixel
    values. A model that already fits comes back as is.

    Args:
        model: one input `(height, width, channels)`, uint8.
        image_shape: `(height, width, channels)`.
    """
    wanted = tuple(model.input.shape[1:])
    image_shape = tuple(image_shape)
    if wanted == image_shape:
        return model
    inputs = keras.Input(image_shape, dtype="uint8", name="images")
    x = _adapt_colour(_adapt_size(inputs, wanted), wanted[-1])
    if x.dtype != "uint8":
        x = Pixels(name="pixels")(x)
    return keras.Model(inputs, model(x), name=f"{model.name}_adapted")


def _adapt_size(x, wanted):
    missing = [w - have for w, have in zip(wanted[:2], x.shape[1:3])]
    if not any(missing):
        return x
    if all(0 <= m < w / 2 for m, w in zip(missing, wanted)):
        border = [(m // 2, m - m // 2) for m in missing]
        return layers.ZeroPadding2D(border, name="pad", dtype=x.dtype)(x)
    return layers.Resizing(*wanted[:2], name="resize")(x)


def _adapt_colour(x, num_channels):
    have = x.shape[-1]
    if have == num_channels:
        return x
    if (have, num_channels) == (3, 1):
        return Luminance(name="rgb_to_grey")(x)
    if (have, num_channels) == (1, 3):
        return EqualChannels(name="grey_to_rgb")(x)
    raise NotApplicable(
        f"images of {have} channels cannot be adapted to a "
        f"model that takes {num_channels}; expected 1 or 3."
    )


# Freezing


def freeze(what):
    """Freeze every leaf of `what`, a model or a list of layers."""
    _set_trainable(what, False)


def unfreeze(what):
    """Thaw every leaf of `what`, a model or a list of layers."""
    _set_trainable(what, True)


def _set_trainable(what, flag):
    for item in what if isinstance(what, list) else [what]:
        for layer in leaves(item):
            layer.trainable = flag


def trainable_count(model):
    """Return the number of trainable parameters of `model`."""
    return int(sum(np.prod(v.shape) for v in model.trainable_variables))


# Mixing weights


def combine(model, members, shares):
    """Set every weight of `model` to sum of share x weight over `members`.

    A share of 0 leaves its member out and a single share of 1 copies it, so
    the ends are exact. Seed states of random layers are not weights and stay;
    so do layers that are adapted to data.

    Args:
        members: models of the same architecture, or lists of arrays in the
            order of `model.weights`.
        shares: one number a member.

    Raises:
        NotApplicable: the architectures differ.
    """
    parts = [
        (share, _arrays(member))
        for share, member in zip(shares, members, strict=True)
        if share != 0
    ]
    for _, arrays in parts:
        check_same_shapes(model, arrays)
    adapted = _adapted_variables(model)
    for i, variable in enumerate(model.weights):
        if id(variable) in adapted:
            continue
        terms = [a[i] if s == 1 else s * a[i] for s, a in parts]
        mixed = terms[0] if terms else np.zeros(variable.shape)
        for term in terms[1:]:
            mixed = mixed + term
        variable.assign(mixed.astype(variable.dtype))


def interpolate(model, end, start, share):
    """Set `model` to share x `end` + (1 - share) x `start`, exact at 0, 1."""
    combine(model, [end, start], [share, 1 - share])


def _arrays(member):
    if isinstance(member, keras.Model):
        return [variable.numpy() for variable in member.weights]
    return member


def check_same_shapes(model, arrays):
    """Refuse, with `NotApplicable`, weights of another architecture."""
    if [tuple(v.shape) for v in model.weights] != [a.shape for a in arrays]:
        raise NotApplicable(
            f"the weights do not have the shapes of {model.name!r}; expected "
            "models of one architecture."
        )


def keep_largest(array, share):
    """Return `array` with all entries 0 but the `share` largest by magnitude.

    Args:
        array: of any shape; the entries kept are unchanged to the bit.
        share: 0 to 1, of the entries, rounded to a whole number.
    """
    order = np.argsort(-np.abs(array), axis=None, kind="stable")
    kept = order[: round(share * array.size)]
    result = np.zeros_like(array)
    result.flat[kept] = array.flat[kept]
    return result

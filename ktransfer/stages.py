"""Stages that several methods go through: probe, tune, teacher, student.

A method never imports a method; what two of them do alike stands here.
"""

import keras
import numpy as np
from keras import layers, ops

from ktransfer import backbones
from ktransfer.data import validation_split
from ktransfer.errors import NotApplicable
from ktransfer.layers import InferenceMode
from ktransfer.losses import cross_entropy, softened_divergence
from ktransfer.seeds import stream
from ktransfer.surgery import (
    adapt_input,
    blocks,
    classifier,
    combine,
    copy,
    copy_backbone,
    freeze,
    fresh,
    head_layer,
    inline,
)
from ktransfer.training import fit, reestimate_statistics


def fitted(target, backbone, *, steps, seed, **training):
    """Return `backbone` under a new head; what is thawed is trained."""
    model = classifier(backbone, target, seed=seed)
    fit(model, target.train, steps=steps, seed=seed, **training)
    return model


def tuned(target, source, *, steps, seed, **training):
    """Return the source's features under a new head, all trained on `target`.

    Args:
        target: the `Task`; its labelled images train the model.
        source: the `Source`.
        steps, seed, training: as in `fit`.
    """
    backbone = copy_backbone(source.model)
    return fitted(target, backbone, steps=steps, seed=seed, **training)


def probed(target, backbone, *, steps, seed, **training):
    """Return a linear head, trained on the frozen `backbone`.

    The backbone is frozen in place and stays so; thaw it to go on.
    """
    freeze(backbone)
    return fitted(target, backbone, steps=steps, seed=seed, **training)


def small_network(target, seed, name=None):
    """Return the fresh, untrained default network: images -> logits.

    It is what `baselines/scratch` trains, and the student of distillation.
    """
    backbone = backbones.convnet(seed=seed)
    return classifier(backbone, target, seed=seed, name=name)


def answers(source, target):
    """Tell whether the source already answers the classes of `target`."""
    theirs, ours = source.task, target
    return (theirs.label_space, theirs.labels) == (
        ours.label_space,
        ours.labels,
    )


def teacher(target, source, *, steps, share, seed, name="teacher", **training):
    """Return a frozen teacher for `target`, and the steps left for the rest.

    The source itself if it answers the target's classes; else the source,
    fine-tuned on the labelled target images.

    Args:
        steps: of the whole method.
        share: of the steps that fine-tuning a teacher may take.
        seed, training: as in `fit`.

    Returns:
        (model from raw target images to logits, number of steps left).
    """
    if answers(source, target):
        model = adapt_input(copy(source.model), target.image_shape)
        spent = 0
    else:
        spent = int(steps * share)
        model = tuned(target, source, steps=spent, seed=seed, **training)
    model = copy(model, name)
    freeze(model)
    return model, steps - spent


def first_backbone(source, *, seed, from_source):
    """Return the source's features, copied, or the fresh default backbone."""
    if from_source:
        return copy_backbone(source.model)
    return backbones.convnet(seed=seed)


def two_streams(target, source, target_backbone, source_backbone, *, seed):
    """Return one model of both tasks, for a step that holds a batch of each.

    It maps the streams "target" and "source", raw images of either task, to
    logits of the same names: a separate forward pass each, through its own
    input adapter and its own fresh head. The layers `target_network`, all
    that is needed to serve the target, and `source_network` are models.

    Args:
        target: the `Task`.
        source: the `Source`; its task gives the second stream.
        target_backbone, source_backbone: images -> features; the same model
            twice to share it.
        seed: of the heads.
    """
    networks = {
        "target": classifier(
            target_backbone, target, seed=seed, name="target_network"
        ),
        "source": classifier(
            source_backbone,
            source.task,
            seed=stream(seed, "source"),
            name="source_network",
        ),
    }
    inputs = {
        name: keras.Input(network.input.shape[1:], dtype="uint8", name=name)
        for name, network in networks.items()
    }
    outputs = {name: networks[name](inputs[name]) for name in networks}
    return keras.Model(inputs, outputs, name="two_streams")


def held_out(target, seed):
    """Return `target` with fewer labelled images, and the `Split` they form.

    Raises:
        NotApplicable: no class has two images.
    """
    training, validation = validation_split(target.train, seed=seed)
    if not len(validation.y):
        raise NotApplicable(
            "no class has two labelled images; expected at least one that "
            "has, to hold an image out for a choice."
        )
    return target._replace(train=training), validation


def refresh_statistics(target, backbone):
    """Re-estimate BatchNorm in `backbone` on the labelled target images."""
    adapted = adapt_input(backbone, target.image_shape)
    reestimate_statistics(adapted, target.train.x)


def merge(target, backbone, members, shares):
    """Set `backbone` to the sum of share x member, with statistics of its own.

    Shares that pick one member as it is give that member bit for bit, its
    statistics included.

    Args:
        target: the `Task` whose images give the BatchNorm statistics.
        backbone, members, shares: as in `combine`.
    """
    combine(backbone, members, shares)
    if [share for share in shares if share != 0] != [1]:
        refresh_statistics(target, backbone)


def mixed(target, source, *, seed, shares):
    """Return the source's backbone at weights a W_s + b W_0, W_0 fresh.

    Args:
        shares: (a, b). (1, 0) and (0, 1) give the source's own backbone and a
            fresh one as they are, seeds of random layers included.
    """
    original = copy_backbone(source.model)
    initial = fresh(original, seed)
    backbone = original if shares[0] else initial
    weights = [[v.numpy() for v in x.weights] for x in (original, initial)]
    merge(target, backbone, weights, shares)
    return backbone


def require_sources(sources):
    """Refuse, with `NotApplicable`, an empty list of sources."""
    if not sources:
        raise NotApplicable("no source is given; expected at least one.")


def read_sources(target, sources, *, tune=False, layer="features"):
    """Return symbolic images of `target`, and each source's features of them.

    Each source is a copy named `source_1`, ... behind its own input adapter,
    frozen unless `tune`; its features are flattened, `(batch, width)`.

    Raises:
        NotApplicable: there is no source.
    """
    require_sources(sources)
    inputs = keras.Input(target.image_shape, dtype="uint8", name="images")
    features = []
    for number, source in enumerate(sources, start=1):
        name = f"source_{number}"
        backbone = copy_backbone(source.model, name, layer)
        if not tune:
            freeze(backbone)
        reader = adapt_input(backbone, target.image_shape)
        if not tune:
            # A source with dropout is read as it serves.
            reader = InferenceMode(reader, name=name)
        x = reader(inputs)
        if len(x.shape) > 2:
            x = layers.Flatten(name=f"flatten_{number}")(x)
        features.append(x)
    return inputs, features


def projected(features, units, seed):
    """Return each of the `features` behind a Dense(units) and a LayerNorm."""
    return [
        layers.LayerNormalization(name=f"norm_{number}")(
            head_layer(units, f"project_{number}", seed)(x)
        )
        for number, x in enumerate(features, start=1)
    ]


def mixture(models, shares, temperature=1.0):
    """Return raw images -> T log of the mean of softmax(z_i / T).

    As logits at temperature T they are the models' mean belief. A model of
    share 0 is left out, a lone one is returned as it is.

    Args:
        models: with names of their own, from images of one shape to logits.
        shares: numbers >= 0 that sum to 1, one a model.
        temperature: T.
    """
    used = [(s, m) for s, m in zip(shares, models, strict=True) if s > 0]
    if len(used) == 1:
        return used[0][1]
    shape = models[0].input.shape[1:]
    inputs = keras.Input(shape, dtype="uint8", name="images")
    terms = [
        ops.log_softmax(model(inputs) / temperature) + float(np.log(share))
        for share, model in used
    ]
    mixed = temperature * ops.logsumexp(ops.stack(terms), axis=0)
    return keras.Model(inputs, mixed, name="mixture")


def distill(
    student, target, teach, *, steps, seed, temperature, strength, **training
):
    """Train `student` in place, on the labels and on the answers of `teach`.

    L = (1 - strength) CE + strength T^2 KL; a term of weight 0 is left out.

    Args:
        student: raw target images -> logits.
        target: the `Task`.
        teach: frozen, raw target images -> logits of the same classes.
        temperature, strength: T and the weight of the teacher, 0 to 1.
        steps, seed, learning_rate, training: as in `fit`.
    """
    inputs = keras.Input(target.image_shape, dtype="uint8", name="images")
    logits = student(inputs)
    answered = InferenceMode(teach, name="teacher")(inputs)
    both = {"logits": logits, "teacher": answered}

    def loss(labels, outputs):
        logits = outputs["logits"]
        soft = softened_divergence(outputs["teacher"], logits, temperature)
        if strength == 1:
            return soft
        hard = cross_entropy(labels, logits)
        return (1 - strength) * hard + strength * soft

    fit(
        keras.Model(inputs, both) if strength else student,
        target.train,
        steps=steps,
        seed=seed,
        loss=loss if strength else cross_entropy,
        **training,
    )


def same_size(first, second):
    """Return two feature maps with the height and width of the smaller.

    The larger one is average-pooled. A map beside a vector is averaged over
    its positions.

    Args:
        first, second: symbolic, `(n, height, width, channels)` or `(n, d)`.
    """
    if len(first.shape) == 2 or len(second.shape) == 2:
        return [
            x if len(x.shape) == 2 else layers.GlobalAveragePooling2D()(x)
            for x in (first, second)
        ]
    sizes = zip(first.shape[1:3], second.shape[1:3])
    size = tuple(min(pair) for pair in sizes)
    return [_pooled(x, size) for x in (first, second)]


def _pooled(x, size):
    """Return the map `x` at height and width `size`, as means over areas.

    Keras's AdaptiveAveragePooling2D fails where a size does not divide.
    """
    for axis, wanted in ((1, size[0]), (2, size[1])):
        if x.shape[axis] != wanted:
            table = _area_table(x.shape[axis], wanted)
            letters = "bhwc,kh->bkwc" if axis == 1 else "bhwc,kw->bhkc"
            x = ops.einsum(letters, x, table)
    return x


def _area_table(length, wanted):
    """Return `(wanted, length)`: the share of each cell in each wider one."""
    width = length / wanted
    cells, areas = np.arange(length), np.arange(wanted)[:, None] * width
    ends = np.minimum(cells + 1, areas + width)
    overlap = np.maximum(ends - np.maximum(cells, areas), 0)
    return (overlap / width).astype("float32")


def block_chain(model):
    """Return `model` cut after every block, and the rest up to its output.

    The pieces are models that share its layers; run one after the other they
    are `model`.

    Raises:
        NotApplicable: a branch leads around a cut.
    """
    flat = inline(model, tap=[*blocks(model), *model.output_names])
    starts = [flat.input, *flat.output.values()]
    try:
        return [
            keras.Model(start, end, name=f"{model.name}_{name}")
            for start, (name, end) in zip(starts, flat.output.items())
        ]
    except ValueError as error:
        raise NotApplicable(
            f"the blocks of {model.name!r} branch; expected a chain of blocks."
        ) from error

"""Stages that several methods go through: probe, tune, teacher, student.

A method never imports a method; what two of them do alike stands here.
"""

import keras
import numpy as np
from keras import layers, ops

from ktransfer import backbones
from ktransfer.data import validation_split
from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.layers import GradientReversal, InferenceMode
from ktransfer.losses import (
    cross_entropy,
    softened_divergence,
    summed_cross_entropy,
)
from ktransfer.seeds import stream
from ktransfer.surgery import (
    adapt_input,
    attach_head,
    blocks,
    classifier,
    combine,
    copy,
    copy_backbone,
    freeze,
    fresh,
    head_layer,
    inline,
    leaves,
)
from ktransfer.training import fit, predict, reestimate_statistics


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


def divided(steps, share, *, seed):
    """Share `steps` out to two stages of one training.

    Args:
        steps: of both stages.
        share: of the first, from 0 to 1.
        seed: of the method, and of its first stage.

    Returns:
        (steps of the first, steps of the second, seed of the second). The
        second has epochs of its own: it would see the images of the first
        once more, in the same order. Alone it has the method's seed.

    Raises:
        KTransferError: `E_ARGUMENT` if the share is not within 0 and 1.
    """
    if not 0 <= share <= 1:
        raise KTransferError(
            "E_ARGUMENT", f"the share is {share!r}; expected 0 to 1."
        )
    first = int(steps * share)
    return first, steps - first, stream(seed, "stage", 2) if first else seed


def own_rate(learning_rate, *heads):
    """Return the `rates` of `fit` under which the `heads` have their own.

    None, the rate of all else, needs no entry.
    """
    return [(heads, learning_rate)] if learning_rate is not None else []


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


def two_domains(target, source, *, seed, from_source=False):
    """Return one network for two domains, as it serves and as it trains.

    The first model maps raw target images to logits. The second maps the
    streams "target" and "source", raw images, each through its own input
    adapter and a forward pass of its own, to a dictionary of logits `target`
    and `source`, `(batch, K)`, and of flat features `target_features` and
    `source_features`. Both models share backbone and head.

    Args:
        target: the `Task`.
        source: the `Source`, whose task has the classes of `target`.
        seed: of the head, and of the fresh weights.
        from_source: start from the source's weights, not only from its
            architecture.

    Raises:
        NotApplicable: the classes differ.
    """
    require_same_classes(target, source)
    backbone = copy_backbone(source.model)
    if not from_source:
        backbone = fresh(backbone, seed)
    network = attach_head(backbone, target.num_classes, seed=seed)
    shapes = {
        "target": target.image_shape,
        "source": source.task.image_shape,
    }
    inputs, outputs = {}, {}
    for name, shape in shapes.items():
        flat = inline(adapt_input(network, shape), tap=["features", "logits"])
        reader = keras.Model(flat.input, flat.output, name=f"{name}_reader")
        inputs[name] = keras.Input(shape, dtype="uint8", name=name)
        read = reader(inputs[name])
        outputs[name] = read["logits"]
        outputs[f"{name}_features"] = layers.Flatten()(read["features"])
    both = keras.Model(inputs, outputs, name="two_domains")
    return adapt_input(network, target.image_shape), both


def train_on_source(both, source, *, steps, seed, **training):
    """Train the network of `two_domains` on the labels of the source alone.

    No target image passes through it, in BatchNorm neither.

    Args:
        both: the second model of `two_domains`.
        source: the `Source`.
        steps, seed, training: as in `fit`.
    """
    alone = keras.Model(
        {"source": both.input["source"]}, {"source": both.output["source"]}
    )
    fit(
        alone,
        {"source": source.task.train},
        steps=steps,
        seed=seed,
        loss=summed_cross_entropy,
        **training,
    )


def train_on_domains(
    network, both, target, source, penalty, *, steps, seed, **training
):
    """Train on the source's labels, and so that `penalty` of both falls.

    L = CE(source) + penalty(outputs of `both`). No label of the target is
    read. A BatchNorm layer sees each stream by itself; its moving statistics
    mix both, so they are taken from the target's images at the end.

    Args:
        network, both: the models of `two_domains`; `both` may have more
            outputs, and an input `progress`.
        target: the `Task`.
        source: the `Source`.
        penalty: function outputs -> scalar; None, as strength 0 gives it, is
            `train_on_source`.
        steps, seed, training: as in `fit`.
    """
    if penalty is None:
        train_on_source(both, source, steps=steps, seed=seed, **training)
        return
    images = without_labels(target)

    def loss(labels, outputs):
        supervised = cross_entropy(labels["source"], outputs["source"])
        return supervised + penalty(outputs)

    fit(
        both,
        {"source": source.task.train, "target": images},
        steps=steps,
        seed=seed,
        loss=loss,
        **training,
    )
    reestimate_statistics(network, images)


def without_labels(target):
    """Return the images of `target` that come without labels.

    Those of `target.unlabelled`, else the training images without theirs.
    """
    if target.unlabelled is not None:
        return target.unlabelled
    return target.train.x


def adversary(both, given, *, seed, hidden_units, strength, weigh=None):
    """Return `both` with a domain discriminator, and the penalty of it.

    D = Dense(hidden_units, relu) -> Dense(1) tells source from target by
    `given`; its cross-entropy is a mean over the images of both. D learns at
    weight 1; what it is given gets the gradient times -lambda, with lambda =
    strength (2 / (1 + exp(-10 p)) - 1) and p the share of steps done.
    Source: Ganin et al. 2016, DANN, arXiv:1505.07818.

    Args:
        both: the second model of `two_domains`.
        given: {"target": ..., "source": ...}, symbolic `(batch, width)`.
        seed: of the discriminator.
        hidden_units: of D.
        strength: of the reversed gradient; 0 gives `both` as it is, and None
            for the penalty.
        weigh: function logits -> `(batch, 1)`, the weight of each image within
            its domain; None weighs all alike.

    Returns:
        (model with an input `progress` and outputs `target_domain` and
        `source_domain`, function outputs -> scalar).
    """
    if not strength:
        return both, None
    progress = keras.Input((1,), name="progress")
    growing = strength * (2 / (1 + ops.exp(-10 * progress)) - 1)
    hidden = head_layer(hidden_units, "domain_hidden", seed, "relu")
    answer = head_layer(1, "domain", seed)
    reverse = GradientReversal(name="reverse")
    outputs = dict(both.output)
    for name, x in given.items():
        outputs[f"{name}_domain"] = answer(hidden(reverse([x, growing])))
    inputs = {**both.input, "progress": progress}

    def penalty(outputs):
        errors = []
        for name, sign in (("source", -1), ("target", 1)):
            error = ops.softplus(sign * outputs[f"{name}_domain"])
            weights = 1.0 if weigh is None else weigh(outputs[name])
            errors.append(ops.mean(weights * error) / ops.mean(weights))
        return sum(errors) / 2

    return keras.Model(inputs, outputs, name="adversary"), penalty


def require_same_classes(target, source):
    """Refuse, with `NotApplicable`, a source of other classes."""
    if not answers(source, target):
        raise NotApplicable(
            "needs a source of the target's own classes, see `make adapt`; "
            f"the source is {source.task.name}, the target {target.name}."
        )


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


def tuned_weights(
    target, source, names, kinds=(layers.Layer,), *, steps, seed, **training
):
    """Return the source's features under a new head, few weights trained.

    The backbone trains its weights called one of `names`, and nothing else
    of it changes: with BatchNorm in it the whole is trained in inference mode,
    so that the statistics stay (and dropout is off).

    Args:
        target: the `Task`; its labelled images train the model.
        source: the `Source`.
        names: of variables: "bias", "gamma", "beta".
        kinds: classes of layers whose weights count.
        steps, seed, training: as in `fit`.

    Raises:
        NotApplicable: the backbone has no such weight.
    """
    backbone = copy_backbone(source.model)
    freeze(backbone)
    _thaw_weights(backbone, names, kinds)
    model = classifier(backbone, target, seed=seed)
    trained = model
    if any(isinstance(x, layers.BatchNormalization) for x in leaves(model)):
        inputs = keras.Input(target.image_shape, dtype="uint8", name="images")
        logits = InferenceMode(model, name="inference")(inputs)
        trained = keras.Model(inputs, logits)
    fit(trained, target.train, steps=steps, seed=seed, **training)
    return model


def _thaw_weights(frozen, names, kinds):
    """Thaw the weights of a frozen model that `tuned_weights` trains."""
    chosen = [
        layer
        for layer in leaves(frozen)
        if isinstance(layer, kinds)
        and any(variable.name in names for variable in layer.weights)
    ]
    if not chosen:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise NotApplicable(
            f"the source's features have no {wanted} "
            f"with {' or '.join(names)}; expected at least one."
        )
    for layer in chosen:
        layer.trainable = True
        for variable in layer.trainable_variables:
            variable.trainable = variable.name in names


def constant(array):
    """Return a float32 variable that no training moves, for use in a loss.

    An array would be built into the compiled program; what a variable holds
    is put in, and the program serves the next run.
    """
    return keras.Variable(array, trainable=False, dtype="float32")


def anchor(variables, importances=None):
    """Return a function () -> 1/2 sum of importance x (W - W_s)^2, a scalar.

    W_s is what the `variables` hold now, at the call of `anchor`.

    Args:
        variables: Keras variables, that train later.
        importances: an array of its shape for each; None for 1 throughout.
    """
    if importances is None:
        importances = [np.ones(variable.shape) for variable in variables]
    terms = [
        (variable, constant(variable.numpy()), constant(importance))
        for variable, importance in zip(variables, importances, strict=True)
    ]

    def distance():
        return 0.5 * sum(
            ops.sum(importance * ops.square(variable - start))
            for variable, start, importance in terms
        )

    return distance


def with_source_head(model, source):
    """Return raw images -> `logits` of `model`, and `source_logits`.

    The second output is a copy of the source's own head, thawed, on the
    features of `model`, whose layers the result shares.

    Args:
        model: of `classifier`, on a copy of the source's backbone.
        source: the `Source`.
    """
    network = copy(source.model)
    (last,) = network.output_names
    theirs = inline(network, tap=["features", last]).output
    head = keras.Model(theirs["features"], theirs[last], name="source_head")
    ours = inline(model, tap=["features", "logits"])
    outputs = {
        "logits": ours.output["logits"],
        "source_logits": head(ours.output["features"]),
    }
    return keras.Model(ours.input, outputs, name="with_source_head")


def read_domains(target, source):
    """Return the source's frozen features as readers of either domain.

    Returns:
        ({"target": reader, "source": reader}, {"target": images, "source":
        images}): a reader maps raw images of its task to flat features
        `(n, d)` in inference mode, and both hold one copy of the backbone;
        the images are those of `without_labels` and the source's own.

    Raises:
        NotApplicable: the classes differ.
    """
    require_same_classes(target, source)
    backbone = copy_backbone(source.model)
    freeze(backbone)
    images = {"target": without_labels(target), "source": source.task.train.x}
    readers = {}
    for name, x in images.items():
        inputs = keras.Input(x.shape[1:], dtype="uint8", name=name)
        adapted = adapt_input(backbone, x.shape[1:])
        features = InferenceMode(adapted, name=f"{name}_reader")(inputs)
        flat = layers.Flatten(name=f"{name}_flat")(features)
        readers[name] = keras.Model(inputs, flat)
    return readers, images


def aligned(target, source, readers, maps, *, steps, seed, **training):
    """Return raw target images -> reader, map, linear head.

    The head is all that trains, on the source's labels and through the
    source's reader and map.

    Args:
        target, source: the `Task` and the `Source`.
        readers: of `read_domains`.
        maps: frozen layers of the same names, features -> aligned features;
            one layer twice to share it.
        steps, seed, training: as in `fit`.
    """
    head = head_layer(target.num_classes, "logits", seed)
    inputs = {name: reader.input for name, reader in readers.items()}
    outputs = {
        name: head(maps[name](reader.output))
        for name, reader in readers.items()
    }
    both = keras.Model(inputs, outputs, name="aligned")
    train_on_source(both, source, steps=steps, seed=seed, **training)
    return keras.Model(inputs["target"], outputs["target"], name="aligned")


def feature_moments(reader, images):
    """Return mean, deviation `(d,)` and correlation `(d, d)` of features.

    All are float64 and over all images. A constant feature has deviation 1,
    so that to standardise it is to centre it, and correlation 0 even with
    itself.

    Args:
        reader: images -> features `(n, d)`.
        images: `(n, height, width, channels)` uint8.
    """
    features = predict(reader, images)
    mean = features.mean(axis=0, dtype="float64")
    covariance = np.zeros((len(mean), len(mean)))
    for start in range(0, len(features), 1000):
        centred = features[start : start + 1000] - mean
        covariance += centred.T @ centred / len(features)
    deviation = np.sqrt(np.diag(covariance))
    # Below it the deviation is the rounding of float32.
    constant = deviation <= 1e-6 * np.abs(mean)
    covariance[constant] = covariance[:, constant] = 0
    deviation[constant] = 1
    return mean, deviation, covariance / np.outer(deviation, deviation)


def linearly_aligned(target, source, align, *, steps, seed, **training):
    """Return `aligned` on standardised features, times a matrix a domain.

    A domain's features f become ((f - mean) / deviation) matrix, a Dense
    layer `target_align` or `source_align`, with the domain's own moments.

    Args:
        target, source: the `Task` and the `Source`.
        align: function (correlation of the target's features, that of the
            source's) -> (target's matrix, source's), all float64, `(d, k)`.
        steps, seed, training: as in `fit`.
    """
    readers, images = read_domains(target, source)
    moments = {
        name: feature_moments(reader, images[name])
        for name, reader in readers.items()
    }
    matrices = align(moments["target"][2], moments["source"][2])
    maps = {}
    for name, matrix in zip(("target", "source"), matrices, strict=True):
        mean, deviation, _ = moments[name]
        kernel = matrix / deviation[:, None]
        dense = layers.Dense(kernel.shape[1], name=f"{name}_align")
        dense.trainable = False
        dense.build((None, len(mean)))
        dense.set_weights([kernel, -mean @ kernel])
        maps[name] = dense
    return aligned(
        target, source, readers, maps, steps=steps, seed=seed, **training
    )


def num_kept(eigenvalues, num_components):
    """Return how many components to keep: `num_components`, or all there are.

    Those of an eigenvalue below 1e-8 of the largest are rounding.

    Args:
        eigenvalues: >= 0 up to rounding, in ascending order.
        num_components: as asked for.

    Raises:
        KTransferError: `E_ARGUMENT` for fewer than one.
        NotApplicable: all eigenvalues are 0.
    """
    if num_components < 1:
        raise KTransferError(
            "E_ARGUMENT",
            f"num_components is {num_components!r}; expected at least 1.",
        )
    found = int(np.sum(eigenvalues > 1e-8 * eigenvalues[-1]))
    if eigenvalues[-1] <= 0:
        raise NotApplicable(
            "the source's features are the same for all images of a domain; "
            "expected some that vary."
        )
    return min(num_components, found)

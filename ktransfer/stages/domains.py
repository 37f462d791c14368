"""One network for two domains, trained on the labels of the source."""

import math

import keras
from keras import layers, ops

from ktransfer.engine.losses import cross_entropy, summed_cross_entropy
from ktransfer.engine.training import fit
from ktransfer.errors import NotApplicable
from ktransfer.models.layers import GradientReversal
from ktransfer.models.surgery import (
    adapt_input,
    attach_head,
    copy_backbone,
    fresh,
    head_layer,
    inline,
    with_head,
)
from ktransfer.stages.teachers import answers


def two_domains(target, source, *, seed, from_source=False, head=None):
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
        head: function width of the features -> model, features -> logits, its
            last layer `logits`; None for a linear one.

    Raises:
        NotApplicable: the classes differ.
    """
    require_same_classes(target, source)
    backbone = copy_backbone(source.model)
    if not from_source:
        backbone = fresh(backbone, seed)
    if head is None:
        network = attach_head(backbone, target.num_classes, seed=seed)
    else:
        width = math.prod(backbone.output.shape[1:])
        network = with_head(backbone, head(width))
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
        served=(network, images),
        **training,
    )


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
        named = source.task.label_space and target.label_space
        hint = "" if named else " Say whose labels are alike: label_space=..."
        raise NotApplicable(
            "needs a source of the target's own classes, see `make adapt`; "
            f"the source is {source.task.name}, the target {target.name}.{hint}"
        )

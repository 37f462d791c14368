"""One model of two tasks, or of a task and the source's own answers."""

import keras

from ktransfer.errors import NotApplicable
from ktransfer.models import backbones
from ktransfer.models.own import answering
from ktransfer.models.surgery import (
    assign,
    classifier,
    copy,
    copy_backbone,
    inline,
)
from ktransfer.seeds import stream


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

    Raises:
        NotApplicable: the source is of no classes, which a head could learn.
    """
    if not source.task.num_classes:
        raise NotApplicable(
            f"{source.task.name} came without classes, and this method learns "
            "them beside the target's; expected a source with its images."
        )
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


def renamed(tower):
    """Return a copy of `tower` whose layers are named `..._source`."""

    def rename(layer):
        name = f"{layer.name}_source"
        return type(layer).from_config({**layer.get_config(), "name": name})

    copied = keras.models.clone_model(tower, clone_function=rename)
    copied.name = f"{tower.name}_source"
    assign(copied, [variable.numpy() for variable in tower.variables])
    return copied


def with_source_head(model, source):
    """Return raw images -> `logits` of `model`, and `source_logits`.

    The second output is a copy of the source's own head, thawed, on the
    features of `model`, whose layers the result shares.

    Args:
        model: of `classifier`, on a copy of the source's backbone.
        source: the `Source`.
    """
    network = copy(answering(source))
    (last,) = network.output_names
    theirs = inline(network, tap=["features", last]).output
    head = keras.Model(theirs["features"], theirs[last], name="source_head")
    ours = inline(model, tap=["features", "logits"])
    outputs = {
        "logits": ours.output["logits"],
        "source_logits": head(ours.output["features"]),
    }
    return keras.Model(ours.input, outputs, name="with_source_head")

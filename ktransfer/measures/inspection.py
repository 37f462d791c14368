"""What a user's model is, and what images make of it, before any transfer."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from ktransfer.engine.prediction import predict
from ktransfer.models import blocks, graph, named, own, preprocessing
from ktransfer.models.normal_form import FEATURES, activation_of
from ktransfer.models.surgery import adapt_input, copy_backbone

# Layers that behave in another way while a model is trained.
_IN_TRAINING = ("BatchNormalization", "Dropout", "SpatialDropout2D")


class Inspection(NamedTuple):
    """What is seen of a model.

    Fields:
        name: of the model.
        image_shape: (height, width, channels) of its input; None in it is any.
        dtype: of its input.
        pixels: mode of the preprocessing, None where it is missing.
        told_by: what tells it: "its graph", "its family" or "".
        blocks: name -> number of parameters, bottom first.
        features: name of the layer that feeds the head.
        num_features: of it, after the mean over positions.
        head: names of the layers above, () without a head.
        num_classes: of the head, 0 without one.
        activation: of the output, "softmax", "linear" or another.
        in_training: kind -> number of layers that training moves or randomises.
        custom: names of layers whose class is none of Keras's.
        parameters: of all.
    """

    name: str
    image_shape: tuple
    dtype: str
    pixels: str | None
    told_by: str
    blocks: dict[str, int]
    features: str
    num_features: int
    head: tuple[str, ...]
    num_classes: int
    activation: str
    in_training: dict[str, int]
    custom: tuple[str, ...]
    parameters: int

    def lines(self) -> list[str]:
        """Return what a terminal shows."""
        height, width, channels = (n or "any" for n in self.image_shape)
        pixels = (
            f"{self.pixels} ({named.MODES[self.pixels]}), shown by "
            f"{self.told_by}"
            if self.pixels
            else f"not to be seen; name one of {', '.join(named.MODES)}"
        )
        trained = [
            f"{count} {kind}" for kind, count in self.in_training.items()
        ]
        head = (
            f"{' > '.join(self.head)}: {self.num_classes} classes, "
            f"{self.activation}"
            if self.head
            else "none: it ends at its features"
        )
        rows = [
            ("model", f"{self.name}, {self.parameters:,} parameters"),
            ("input", f"{height} x {width} x {channels}, {self.dtype}"),
            ("pixels", pixels),
            ("features", f"{self.features}, {self.num_features:,} values"),
            ("head", head),
            ("in training", ", ".join(trained) or "nothing but its weights"),
            ("own layers", ", ".join(self.custom) or "none"),
            ("blocks", f"{len(self.blocks)}, from the images up"),
        ]
        wide = max(map(len, self.blocks), default=0)
        return [f"{key:<12} {text}" for key, text in rows] + [
            f"{'':<12} {name:<{wide}} {count:>12,}"
            for name, count in self.blocks.items()
        ]


def inspect_model(
    model: keras.Model | str | Path,
    image_size: int | tuple[int, int] | None = None,
) -> Inspection:
    """Return what is seen of a model, as of `load_source`.

    Args:
        model: a Keras model, a file, or a name.
        image_size: of a model of images of any size; 64 without.

    Raises:
        KTransferError: as `load_source`, but for a preprocessing that is not
            known.
    """
    size = image_size or 64
    opened, stated = own.opened(model, image_size)
    pixels, told_by = _pixels(opened, stated, size)
    formed = own.load_source(opened, pixels or "none", image_size=size).model
    features, width, head = _around_features(formed)
    flat = graph.read(opened)
    last = graph.maker(flat, flat.outputs)
    pictures = flat.tensors[flat.inputs.number]
    names = [node.operation.name for node in flat.nodes]
    kinds = Counter(type(x).__name__ for x in graph.leaves(opened))
    return Inspection(
        name=opened.name,
        image_shape=tuple(pictures.shape[1:]),
        dtype=pictures.dtype,
        pixels=pixels,
        told_by=told_by,
        blocks=_blocks(formed),
        features=FEATURES if FEATURES in names else features,
        num_features=width,
        head=head,
        num_classes=formed.output.shape[-1] if head else 0,
        activation=activation_of(last.operation),
        in_training={k: kinds[k] for k in _IN_TRAINING if kinds[k]},
        custom=_custom(opened),
        parameters=opened.count_params(),
    )


def _pixels(model, stated, size):
    """Return the mode, or None, and what tells it."""
    if shown := preprocessing.by_graph(model, size):
        return shown, "its graph"
    family, usual = preprocessing.by_family(model)
    if stated:
        return stated, "you"
    return usual, f"its family, {family}" if family else ""


def _around_features(formed):
    """Return what feeds the head, its width, and the layers of the head."""
    flat = graph.read(formed)
    names = [node.operation.name for node in flat.nodes]
    place = names.index(FEATURES)
    node = flat.nodes[place]
    before = graph.maker(flat, graph.read_by(node)[0])
    made = flat.tensors[graph.made_by(node)[0].number]
    return before.operation.name, made.shape[-1], tuple(names[place + 1 :])


def _blocks(formed):
    found = blocks.blocks(copy_backbone(formed))
    return {
        name: sum(layer.count_params() for layer in members)
        for name, members in found.items()
    }


def _custom(model):
    return tuple(
        layer.name
        for layer in graph.leaves(model)
        if not type(layer).__module__.startswith("keras")
    )


def seen_of_images(source: own.Source, images: np.ndarray) -> list[str]:
    """Return lines on what the source makes of images, (n, h, w, c) uint8.

    A feature is dead that is the same of every image: no head can use it. The
    range of what reaches the first weights shows a wrong preprocessing.
    """
    reader = copy_backbone(adapt_input(source.model, images.shape[1:]))
    features = predict(reader, images).reshape(len(images), -1)
    dead = np.ptp(features, axis=0) == 0
    low, high = preprocessing.range_of(source.model)
    return [
        f"{len(images)} images: {dead.sum():,} of {dead.size:,} features are "
        f"dead ({dead.mean():.0%})",
        f"pixels from 0 to 255 reach the first weights as {low:.3g} to "
        f"{high:.3g}",
    ]

"""The blocks of a network: what methods freeze, thaw, tap and step between.

A block ends where the graph narrows to one tensor, so that the network can be
cut behind it. Names come from the layers: `block3_conv` belongs to `block3`,
and the schemes of `keras.applications` are known.
"""

import re
from typing import NamedTuple

from keras import layers

from ktransfer.errors import unknown
from ktransfer.models import graph
from ktransfer.models.graph import leaves

# Blocks from which on they are named by stage, if the layers have stages.
MANY = 20
# How a layer's name tells its block, and below its stage; first match first.
_BY_BLOCK = (
    (r"(.*stage_?\d+_block_?\d+)_", r"\1"),
    (r"((?:conv|layer|stage)\d+_block\d+)_", r"\1"),
    (r"(.*downsampling)_[a-z]+_(\d+)$", r"\1_\2"),
    (r"(expanded_conv(?:_\d+)?)_", r"\1"),
    (r"(block_?\d+[a-z]?)_", r"\1"),
    (r"conv_(?:dw|pw|pad)_(\d+)", r"conv_\1"),
    (r"((?:stage|conv|layer|pool)\d+)_", r"\1"),
    (r"(.*stem|top)_", r"\1"),
)
_BY_STAGE = (
    (r"(.*stage_?\d+)_", r"\1"),
    (r"(block_?\d+)[a-z]_", r"\1"),
    (r"((?:conv|layer|stage)\d+)_block", r"\1"),
    *_BY_BLOCK,
)


class Block(NamedTuple):
    """A block: its `layers` with weights, and the `Tensor` it ends with."""

    layers: list
    end: graph.Tensor


def blocks(model):
    """Return the weighted leaf layers of `model` by block, bottom first.

    Layers between two places where the graph is one tensor wide belong
    together, and so do neighbours whose names say so: `block3_...`, `conv4_`,
    `stage_2_`, ... A normalisation or an activation belongs to what it
    follows. Where this gives more than 20, layers go by stage, if that gives
    fewer.

    Returns:
        dictionary: block name -> list of layers. Layers that are adapted to
        data, such as `Normalization`, are of no block.
    """
    found = in_graph(graph.read(model))
    return {name: block.layers for name, block in found.items()}


def in_graph(flat):
    """Return the blocks of a `Graph`, name -> `Block`, bottom first."""
    segments = _segments(flat)
    found = _grouped(segments, _BY_BLOCK)
    if len(found) > MANY:
        by_stage = _grouped(segments, _BY_STAGE)
        found = by_stage if len(by_stage) < len(found) else found
    return found


def select(model, names):
    """Return the leaf layers that `names` (of blocks or layers) choose.

    A name of both is the block's.

    Raises:
        KTransferError: `E_UNKNOWN` lists the candidates.
    """
    grouped = blocks(model)
    by_name = {layer.name: [layer] for layer in leaves(model)}
    chosen: list = []
    for name in [names] if isinstance(names, str) else names:
        if name not in grouped and name not in by_name:
            raise unknown("layer", name, [*grouped, *by_name])
        chosen += grouped.get(name) or by_name[name]
    return chosen


class _Segment(NamedTuple):
    """Calls between two places where the graph is one tensor wide."""

    nodes: list
    end: graph.Tensor


def _segments(flat):
    """Return the `_Segment`s of a graph, bottom first."""
    readers: dict[graph.Tensor, int] = {}
    for node in flat.nodes:
        for tensor in graph.read_by(node):
            readers[tensor] = readers.get(tensor, 0) + 1
    ends = set(graph.flat(flat.outputs))
    live = set(graph.flat(flat.inputs))
    found, nodes = [], []
    for node in flat.nodes:
        nodes.append(node)
        for tensor in graph.read_by(node):
            readers[tensor] -= 1
            if not readers[tensor] and tensor not in ends:
                live.discard(tensor)
        live |= {x for x in graph.made_by(node) if readers.get(x) or x in ends}
        if len(live) == 1:
            found.append(_Segment(nodes, next(iter(live))))
            nodes = []
    if nodes:
        # Several outputs: what leads to them is one segment.
        found.append(_Segment(nodes, graph.made_by(nodes[-1])[-1]))
    return found


def _grouped(segments, patterns):
    """Return the blocks that segments form, name -> `Block`."""
    found: dict[str, Block] = {}
    last, open_ = None, False
    for segment in segments:
        weighted = _weighted(segment)
        name = _name(segment, weighted, patterns)
        if weighted and name is None and not open_:
            name = weighted[0].name
        if weighted and name is not None:
            last, open_ = name, True
        else:
            # A pool of that name, or what normalises or activates it.
            follows = name == last or (name is None and _keeps_shape(segment))
            open_ = open_ and follows
            name = last if open_ else None
        if name is not None:
            before = found[name].layers if name in found else []
            new = [x for x in weighted if x not in before]
            found[name] = Block([*before, *new], segment.end)
    return found


def _weighted(segment):
    """Return the leaf layers of a segment that have weights to train."""
    return [
        layer
        for node in segment.nodes
        for layer in leaves(node.operation)
        if getattr(layer, "weights", ()) and not graph.is_adapted(layer)
    ]


def _name(segment, weighted, patterns):
    """Return the block's name that a segment's layers tell, or None."""
    named = weighted or [node.operation for node in segment.nodes]
    for layer in named:
        for pattern, form in patterns:
            if match := re.match(pattern, layer.name):
                return match.expand(form)
    if not any(_has_kernel(layer) for layer in weighted):
        return None
    # Of a branch the layers may be numbered, and what joins it is named.
    return (weighted[0] if len(weighted) == 1 else _last(segment)).name


def _last(segment):
    return segment.nodes[-1].operation


def _has_kernel(layer):
    return any(len(variable.shape) > 1 for variable in layer.weights)


def _keeps_shape(segment):
    """Tell whether a segment is layers that give a tensor as it came."""
    kinds = layers.Activation, layers.ReLU, layers.LeakyReLU, layers.Dropout
    return all(
        bool(getattr(node.operation, "weights", ()))
        or isinstance(node.operation, kinds)
        for node in segment.nodes
    )

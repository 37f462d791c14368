"""The names of backbones and of their layers, without building one.

No Keras import, so that a run is checked before Keras is loaded; a test
compares them with the built models.
"""

_RESIDUAL = [
    f"block{block}_{part}"
    for block in range(2, 11)
    for part in ("conv1", "norm1", "relu1", "conv2", "norm2", "add", "relu2")
] + ["block5_shortcut", "block8_shortcut"]
_CONVNET = {
    *(f"block{n}_conv" for n in (1, 2, 3)),
    *("block1_pool", "block2_pool", "rescale", "features"),
}
LAYERS = {
    "convnet": _CONVNET,
    "dropout_convnet": _CONVNET | {"block3_dropout"},
    "lenet": {
        *("rescale", "flatten", "features"),
        *(
            f"block{n}_{part}"
            for n in (1, 2)
            for part in ("conv", "norm", "relu", "pool")
        ),
    },
    "mlp": {"rescale", "flatten", "block1_dense", "features"},
    "narrow_convnet": _CONVNET,
    "resnet20": {
        *("rescale", "block1_conv", "block1_norm", "block1_relu", "features"),
        *_RESIDUAL,
    },
    "vgg": {
        *("rescale", "block1_pool", "block2_pool", "features"),
        *(
            f"block{n}_{part}{half}"
            for n in (1, 2, 3)
            for part in ("conv", "norm", "relu")
            for half in (1, 2)
        ),
    },
    "wide_convnet": _CONVNET,
}
_HEAD = {"head_hidden", "logits"}


def layer_names(backbone: str) -> set[str]:
    """Return the names of layers and blocks of a source with that backbone."""
    names = LAYERS[backbone] | _HEAD
    return names | {n.partition("_")[0] for n in names if n.startswith("block")}

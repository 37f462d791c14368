"""New Dense layers on top of the source's own Dense layers, which are kept.

z = Dense(K)(Dense(hidden_units, relu)(psi(x))), psi being the source without
its logits: convolutions and the Dense layers that followed them. All of psi
is frozen, as in Oquab et al., whose FC6 and FC7 stay fixed under two new
layers, and as the article puts new layers on top of the pretrained ones;
`train_source_dense` trains its Dense layers, and nothing else of it, with the
new ones. `hidden_units` is ours (theirs has 2,048).

A frozen Dense layer passes on what its ReLUs let through. Of the 64 units of a
CIFAR-10 source 31 were 0 on every image, MNIST's and its own: with 100 labelled
digits that costs .13 of accuracy, .73 where a trained layer has .86.

Row: M15 (article 001, section 3.1).
Source: Oquab et al. 2014. https://doi.org/10.1109/CVPR.2014.222
"""

import keras
from keras import layers

from ktransfer.engine.kinds import Count
from ktransfer.engine.training import fit
from ktransfer.errors import NotApplicable
from ktransfer.models.blocks import select
from ktransfer.models.graph import leaves
from ktransfer.models.surgery import (
    adapt_input,
    copy_backbone,
    freeze,
    head_layer,
    unfreeze,
)


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    hidden_units: Count | None = 256,
    train_source_dense: bool = False,
    **training,
):
    dense, last = _dense_layers(source.model)
    kept = copy_backbone(source.model, layer=last)
    freeze(kept)
    if train_source_dense:
        unfreeze(select(kept, dense))
    kept = adapt_input(kept, target.image_shape)
    # Not `head_hidden`, which is the name of the source's own layer.
    x = head_layer(hidden_units, "new_hidden", seed, "relu")(kept.output)
    logits = head_layer(target.num_classes, "logits", seed)(x)
    model = keras.Model(kept.input, logits, name="dense_layers")
    fit(model, target.train, steps=steps, seed=seed, **training)
    return model


def _dense_layers(model):
    """Return names: the Dense layers between `features` and the logits, and
    the last layer there."""
    found = leaves(model)
    start = [layer.name for layer in found].index("features") + 1
    between = found[start:-1]
    dense = [x.name for x in between if isinstance(x, layers.Dense)]
    if not dense:
        raise NotApplicable(
            f"the source {model.name!r} has no Dense layer between its "
            "features and its logits; expected at least one to build on."
        )
    return dense, between[-1].name

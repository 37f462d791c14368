"""Deep transfer network: a linear layer on the logits of the whole source.

z = F_s(x) W + b, F_s with its own head. The source is frozen, or with
`tune_source` trained together with the new layer; False is ours.

Row: M7 (article 000, section 2.2.1).
Source: untrained, with counted weights, in Nguyen et al. 2020. https://arxiv.org/abs/2002.12462
"""

import keras

from ktransfer.engine.training import fit
from ktransfer.models.own import answering
from ktransfer.models.surgery import adapt_input, copy, freeze, head_layer


def transfer(
    target, source, *, steps, seed, tune_source: bool = False, **training
):
    network = copy(answering(source))
    if not tune_source:
        freeze(network)
    network = adapt_input(network, target.image_shape)
    # Not `logits`, which is the name of the source's own last layer.
    head = head_layer(target.num_classes, "target_logits", seed)
    model = keras.Model(
        network.input, head(network.output), name="deep_transfer_network"
    )
    fit(model, target.train, steps=steps, seed=seed, **training)
    return model

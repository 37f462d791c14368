"""Label mapping: the source answers, its classes are read as the target's.

p(y given x) = sum over z of P(y given z) softmax(F_s(x))_z, P being counted
on the labelled images with the source's probabilities; the logits are log p.
Nothing is trained and `steps` is unused: without such a map F_s on other
classes is chance.

Row: M7 (article 000, section 2.2.1).
Source: Nguyen et al. 2020, LEEP. https://arxiv.org/abs/2002.12462
"""

import keras
from keras import layers, ops

from ktransfer.engine.prediction import predict
from ktransfer.measures.transferability import label_map
from ktransfer.models.own import answering
from ktransfer.models.surgery import adapt_input, copy, freeze

# Far below any probability of a labelled image; it keeps logits finite.
_LEAST = 1e-30


def transfer(target, source, *, steps, seed):
    network = adapt_input(copy(answering(source)), target.image_shape)
    outputs = layers.Softmax(name="source_probabilities")(network.output)
    answers = keras.Model(network.input, outputs)
    counted = label_map(
        predict(answers, target.train.x), target.train.y, target.num_classes
    )
    mapping = layers.Dense(target.num_classes, use_bias=False, name="label_map")
    logits = ops.log(ops.maximum(mapping(outputs), _LEAST))
    mapping.kernel.assign(counted)
    model = keras.Model(network.input, logits, name="label_mapping")
    freeze(model)
    return model

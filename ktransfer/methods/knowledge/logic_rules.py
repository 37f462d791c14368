"""Logic rules: the network is pulled towards its own rule-abiding version.

q(y given x) is proportional to p(y given x) exp(-C (1 - r(x, y))): what p
becomes when the rule r is imposed with `strictness` C. L = (1 - pi) CE(y, p)
+ pi CE(sg(q), p), pi = min(imitation, 1 - decay^t), t the passes over the
labelled images so far. `rule` names r (ours, see ktransfer/stages/rules.py),
or a list of rules, whose 1 - r are summed:

    "source_agreement"  p(y) / max p in the source's eyes
    "likely_classes"    1 for `allowed_share` of the classes, the likeliest
    "likely_mass"       1 for the likeliest classes that hold that share of p

The network is the default one, fresh; what comes from the source comes by the
rule. `imitation` 0 or `decay` 1 trains it on the labels alone. The result
answers with p, and with `imposed` True with q (it then holds a copy of the
source).

C = 6 and decay .95 are those of the authors' code. The cap is the paper's pi_0
< 1, without a number for it that we have seen; their code has none and stops
after 11 passes (20 in a copy of it), where pi is .43 (.64). `imitation` .6 is
ours: a long run at pi near 1 would unlearn its own labels.

Row: M11 (article 002, section 3.3; article 004, section 2).
Source: Hu et al. 2016. https://arxiv.org/abs/1603.06318
"""

import keras
from keras import ops

from ktransfer.engine.kinds import NotNegative, Share, Texts
from ktransfer.engine.losses import cross_entropy
from ktransfer.engine.training import fit
from ktransfer.errors import KTransferError
from ktransfer.models.layers import InferenceMode
from ktransfer.stages import rules
from ktransfer.stages.heads import small_network


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    rule: Texts = "source_agreement",
    strictness: NotNegative = 6.0,
    decay: Share = 0.95,
    imitation: Share = 0.6,
    allowed_share: Share = 0.5,
    imposed: bool = False,
    **training,
):
    if not 0 <= imitation < 1:
        raise KTransferError(
            "E_ARGUMENT",
            f"imitation is {imitation!r}; expected at least 0 and below 1.",
        )
    names = [rule] if isinstance(rule, str) else list(rule)
    for name in names:
        rules.check(name, rules.RULES)
    network = small_network(target, seed, name="network")
    held = [rules.read(x, target, source, allowed_share) for x in names]
    passes = steps * training.get("batch_size", 64) / len(target.train.y)

    def loss(labels, outputs):
        rising = 1 - decay ** (passes * outputs["progress"][0, 0])
        share = ops.minimum(rising, imitation)
        hard = cross_entropy(labels, outputs["logits"])
        soft = _imitation(outputs["constrained"], outputs["logits"])
        return (1 - share) * hard + share * soft

    trained = network
    if decay < 1 and imitation > 0:
        trained = _timed(network, held, strictness)
        training["loss"] = loss
    fit(trained, target.train, steps=steps, seed=seed, **training)
    if not imposed:
        return network
    inputs = keras.Input(target.image_shape, dtype="uint8", name="images")
    _, constrained = _read(inputs, network, held, strictness)
    return keras.Model(inputs, constrained, name="imposed")


def _read(inputs, network, held, strictness):
    """Return the logits of p and of q, symbolic `(n, K)`."""
    logits = constrained = network(inputs)
    for number, rule in enumerate(held, start=1):
        values = InferenceMode(rule, name=f"rule_{number}")(inputs)
        constrained = constrained - strictness * (1 - values)
    return logits, constrained


def _timed(network, held, strictness):
    """Return images and progress -> the logits of p and q, and progress."""
    shape = network.input.shape[1:]
    inputs = {
        "target": keras.Input(shape, dtype="uint8", name="target"),
        "progress": keras.Input((1,), name="progress"),
    }
    read = _read(inputs["target"], network, held, strictness)
    outputs = dict(zip(("logits", "constrained"), read))
    outputs["progress"] = inputs["progress"]
    return keras.Model(inputs, outputs)


def _imitation(constrained, logits):
    """Return CE(sg(q), p), a scalar, from the logits of q and of p."""
    wanted = ops.stop_gradient(ops.softmax(constrained))
    return -ops.mean(ops.sum(wanted * ops.log_softmax(logits), axis=-1))

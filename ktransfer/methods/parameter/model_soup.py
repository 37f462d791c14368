"""Model soup: the mean, in weights, of several fine-tunings of one source.

The members start from one source and one head; they differ in the order of
the images, in the draws of dropout and, by the factors 1, 1/2, 2, 1/4, 4,
..., in the learning rate, and share the steps. Greedy: in the order of their
accuracy on images held out of the target's own, a member joins the mean if
that strictly raises the mean's accuracy. Uniform (`greedy` False): the mean
of all. BatchNorm's statistics of a mean are re-estimated on the target's
images. `num_members` and the factors are ours.

Source: Wortsman et al. 2022. https://arxiv.org/abs/2203.05482
"""

import numpy as np

from ktransfer.engine.kinds import Count, Positive
from ktransfer.engine.prediction import predict
from ktransfer.engine.training import fit
from ktransfer.models.surgery import classifier, combine, copy_backbone
from ktransfer.seeds import stream
from ktransfer.stages.heads import held_out
from ktransfer.stages.weights import merge


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    learning_rate: Positive = 1e-3,
    num_members: Count = 3,
    greedy: bool = True,
    **training,
):
    validation = None
    if greedy and num_members > 1:
        target, validation = held_out(target, seed)
    model = classifier(copy_backbone(source.model), target, seed=seed)
    start = [variable.numpy() for variable in model.weights]
    members = []
    for number in range(num_members):
        # The seeds of dropout are no weights, and draw on: other masks.
        combine(model, [start], [1])
        fit(
            model,
            target.train,
            steps=steps // num_members,
            learning_rate=learning_rate * _factor(number),
            seed=stream(seed, "member", number) if number else seed,
            **training,
        )
        # In float64 the mean of equal members is that member to the bit.
        members.append([v.numpy().astype("float64") for v in model.weights])
    if validation:
        members = _chosen(target, model, members, validation)
    _average(target, model, members)
    return model


def _factor(number):
    """Return 1, 1/2, 2, 1/4, 4, ... for 0, 1, 2, 3, 4, ..."""
    half = (number + 1) // 2
    return 2.0 ** (-half if number % 2 else half)


def _average(target, model, members):
    merge(target, model, members, [1 / len(members)] * len(members))


def _chosen(target, model, members, validation):
    """Return the members of the greedy soup, the best one first."""

    def accuracy(candidates):
        _average(target, model, candidates)
        guesses = predict(model, validation.x).argmax(-1)
        return np.mean(guesses == validation.y)

    ranked = sorted(members, key=lambda m: accuracy([m]), reverse=True)
    soup, best = ranked[:1], accuracy(ranked[:1])
    for member in ranked[1:]:
        reached = accuracy([*soup, member])
        if reached > best:
            soup, best = [*soup, member], reached
    return soup

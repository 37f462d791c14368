"""Self-supervision: tell how far the target's images were turned, then tune.

Stage 1 trains the default backbone, fresh, to say which of four quarter turns
was applied to an image, by CE over four classes; it sees all images of the
target, labelled or not, and no label. Stage 2 puts a new head on it and
trains everything on the labelled images. `pretext_share` is stage 1's share
of the steps; 0.5 is ours.

Row: M28 (article 003, section 1: zero-knowledge transfer).
Source: Gidaris et al. 2018. https://arxiv.org/abs/1803.07728
"""

import numpy as np

from ktransfer.data import Split
from ktransfer.engine.kinds import Share
from ktransfer.engine.training import fit
from ktransfer.errors import NotApplicable
from ktransfer.models import backbones
from ktransfer.models.surgery import classifier


def transfer(target, *, steps, seed, pretext_share: Share = 0.5, **training):
    backbone = backbones.convnet(seed=seed)
    options = {"seed": seed, **training}
    pretext_steps = int(steps * pretext_share)
    if pretext_steps:
        turns = target._replace(train=_turned(_images(target)), num_classes=4)
        pretext = classifier(backbone, turns, seed=seed, name="pretext")
        fit(pretext, turns.train, steps=pretext_steps, **options)
    model = classifier(backbone, target, seed=seed)
    fit(model, target.train, steps=steps - pretext_steps, **options)
    return model


def _images(target):
    height, width, _ = target.image_shape
    if height != width:
        raise NotApplicable(
            f"images of {height} x {width} do not keep their shape when they "
            "are turned; expected square ones."
        )
    if target.unlabelled is None:
        return target.train.x
    return np.concatenate([target.train.x, target.unlabelled])


def _turned(images):
    """Return all images turned by 0, 1, 2 and 3 quarters, labelled so."""
    x = [np.rot90(images, quarters, axes=(1, 2)) for quarters in range(4)]
    y = np.repeat(np.arange(4, dtype="int32"), len(images))
    return Split(np.concatenate(x), y)

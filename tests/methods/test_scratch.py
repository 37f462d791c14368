"""Scratch: nothing of a source, the default network, all of it trained."""

from helpers import small_task, weights_of

from ktransfer.methods.baselines.scratch import transfer
from ktransfer.models import backbones
from ktransfer.models.surgery import classifier, trainable_count


def test_it_starts_from_the_default_network_and_moves_all_of_it():
    task = small_task("target", 1)
    model = transfer(task, steps=2, seed=3, batch_size=4)
    start = classifier(backbones.convnet(seed=3), task, seed=3)
    before, after = weights_of(start), weights_of(model)
    assert before.keys() == after.keys()
    assert all(before[path] != after[path] for path in before)
    assert trainable_count(model) == 56_320 + 1024 * 3 + 3

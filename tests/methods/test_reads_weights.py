"""Which methods read a source's weights, as the planning of runs says it."""

import numpy as np
import pytest
from helpers import bytes_of, worlds

from ktransfer import methods
from ktransfer.errors import NotApplicable
from ktransfer.models.surgery import copy
from ktransfer.runs import Run, planning

SOURCED = {
    name: about
    for name in sorted(methods.names())
    if (about := methods.describe(name)).max_sources != 0
}
# One of each kind in every run of the tests, all of them among the slow ones.
QUICK = (
    *("random_features", "structure_transfer", "feature_extraction"),
    *("hard_sharing", "domain_adversarial", "subspace_alignment"),
)
CASES = [
    pytest.param(name, options, marks=[] if name in QUICK else pytest.mark.slow)
    for name, about in SOURCED.items()
    for options in ({}, {"from_source": True})
    if not options or "from_source" in about.hyperparameters
]


def other(source):
    """Return the source with other weights, the same in all else."""
    model = copy(source.model)
    rng = np.random.default_rng(3)
    for weight in model.weights:
        if weight.dtype == "float32":
            value = weight.numpy()
            weight.assign(value * rng.uniform(0.5, 1.5, value.shape))
    return source._replace(model=model)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_other_weights_of_a_source_move_what_reads_them(name, options):
    about, transfer = SOURCED[name], methods.load(name)
    run = Run("x", name, "digits", 1, 0, sources=("letters",))
    run = run._replace(hyperparameters=tuple(options.items()))
    small = {"batch_size": 8, "num_images": 8, "max_images": 20}
    options = options | {
        key: value
        for key, value in small.items()
        if key in about.hyperparameters
    }
    several = about.max_sources is None or about.max_sources > 1
    for target, *sources in worlds(2 if several else 1):
        try:
            one, another = (
                bytes_of(transfer(target, *given, steps=6, seed=0, **options))
                for given in (sources, list(map(other, sources)))
            )
        except NotApplicable:
            continue
        assert (one != another) == planning.reads_weights(run)
        return
    raise AssertionError(f"{name} applies nowhere")

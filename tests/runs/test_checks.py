"""What is refused before Keras is loaded is what there is."""

import pytest

from ktransfer.errors import KTransferError
from ktransfer.measures import transferability
from ktransfer.models import backbones, names
from ktransfer.runs import carry_out, checks, run, sources
from ktransfer.runs.run import Run


def test_names_that_are_read_without_keras_are_those_of_their_tables():
    assert set(names.LAYERS) == set(backbones.BUILDERS)
    assert set(run.RECIPES) == set(sources.RECIPES)
    assert set(run.EVALUATIONS) == set(carry_out.EVALUATIONS)
    assert set(transferability.SCORES) > {"leep", "class_balance"}


def run_of(method, sources, **given):
    return Run(
        "x",
        method,
        "digits",
        1,
        0,
        sources=("letters",) * sources,
        source_seed=0 if sources else None,
        source_steps=1 if sources else None,
        hyperparameters=tuple(given.items()),
    )


@pytest.mark.parametrize(
    ("method", "given", "name"),
    [
        (
            "classifier_discrepancy",
            {"num_generator_updates": 1.5},
            "E_ARGUMENT",
        ),
        ("co_tuning", {"relationship": "x"}, "E_UNKNOWN"),
        ("fine_tuning", {"schedule": "cosin"}, "E_UNKNOWN"),
        ("fine_tuning", {"learning_rate": 0}, "E_ARGUMENT"),
        ("fine_tuning", {"batch_size": 1e21}, "E_ARGUMENT"),
        ("distillation", {"temperature": 0}, "E_ARGUMENT"),
        ("wise_ft", {"alpha": 1.5}, "E_ARGUMENT"),
        ("gradual_unfreezing", {"learning_rate": "fast"}, "E_ARGUMENT"),
    ],
)
def test_a_value_of_another_kind_is_refused_by_name(method, given, name):
    with pytest.raises(KTransferError, match=next(iter(given))) as caught:
        checks.check_run(run_of(method, 1, **given))
    assert caught.value.name == name


def test_a_value_of_the_kind_is_not_refused():
    """A number may be below 0 where the method says so."""
    checks.check_run(run_of("uncertainty_weighting", 1, initial=-0.7))
    checks.check_run(run_of("fine_tuning", 1, learning_rate=1e-4))


def test_a_layer_that_the_backbone_lacks_is_named():
    with pytest.raises(KTransferError, match="layer of convnet 'block9'"):
        checks.check_run(run_of("hypercolumn", 1, blocks=("block9",)))

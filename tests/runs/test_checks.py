"""What is refused before Keras is loaded is what there is."""

from ktransfer.measures import transferability
from ktransfer.models import backbones, names
from ktransfer.runs import carry_out, run, sources


def test_names_that_are_read_without_keras_are_those_of_their_tables():
    assert set(names.LAYERS) == set(backbones.BUILDERS)
    assert set(run.RECIPES) == set(sources.RECIPES)
    assert set(run.EVALUATIONS) == set(carry_out.EVALUATIONS)
    assert set(transferability.SCORES) > {"leep", "class_balance"}

"""The model of every method opens with plain Keras, and answers the same."""

import contextlib
import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import worlds
from test_contract import NAMES, odd_worlds

from ktransfer import methods
from ktransfer.engine.prediction import predict
from ktransfer.errors import NotApplicable
from ktransfer.models.export import as_builtins

STEPS = 2
# One process for all of them, which knows Keras and NumPy alone.
OPEN = """
import glob, sys
import keras
import numpy as np

for path in sorted(glob.glob(sys.argv[1] + "/*.keras")):
    name = path.removesuffix(".keras")
    model = keras.saving.load_model(path)
    np.save(name + ".found.npy", model.predict(np.load(name + ".npy"), 16, 0))
assert not [x for x in sys.modules if x.startswith("ktransfer")]
"""
ODD = (
    *("adapters", "concatenation", "ensemble", "feature_extraction"),
    *("fine_tuning", "low_rank_adaptation", "stochastic_normalization"),
    *("transfer_component_analysis", "weighted_sum"),
)
# In every run of the tests: all that leave a layer of the suite behind.
SOME = (
    *("concatenation", "expert_features", "feature_noise", "fine_tuning"),
    *("low_rank_adaptation", "stochastic_normalization"),
    *("transfer_component_analysis", "uncertainty_weighting", "weighted_sum"),
)
# Projections of a thousand that cancel: the answers of the model itself differ
# by as much between a traced and an untraced program.
LOOSE = {"transfer_component_analysis": 1e-4}


def made_by(name, found):
    """Return target and model of a method in the first world it applies to."""
    for target, *sources in found(methods.describe(name).min_sources):
        with contextlib.suppress(NotApplicable):
            model = methods.load(name)(target, *sources, steps=STEPS, seed=0)
            return target, model
    raise AssertionError(f"{name} applies nowhere")


@pytest.mark.parametrize(
    ("names", "found"),
    [
        pytest.param(SOME, worlds, id="some"),
        pytest.param(NAMES, worlds, id="all", marks=pytest.mark.slow),
        pytest.param(ODD, odd_worlds, id="odd", marks=pytest.mark.slow),
    ],
)
def test_it_opens_without_the_suite(names, found, tmp_path):
    wanted = {}
    for name in names:
        target, model = made_by(name, found)
        wanted[name] = predict(model, target.train.x)
        np.save(tmp_path / f"{name}.npy", target.train.x)
        as_builtins(model).save(tmp_path / f"{name}.keras")
    done = subprocess.run(
        [sys.executable, "-I", "-c", OPEN, str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name, logits in wanted.items():
        answered = np.load(tmp_path / f"{name}.found.npy")
        bound = LOOSE.get(name, 1e-5) * np.abs(logits).max()
        assert np.abs(answered - logits).max() <= bound, name

"""Probe, then fine-tune: a linear probe, and from that very head the rest."""

import pytest
from helpers import bytes_of, idle

from ktransfer.errors import KTransferError
from ktransfer.methods.feature import linear_probe
from ktransfer.methods.finetuning import probe_then_fine_tune
from ktransfer.methods.finetuning.probe_then_fine_tune import transfer
from ktransfer.methods.parameter import fine_tuning, wise_ft
from ktransfer.models.surgery import trainable_count
from ktransfer.seeds import stream
from ktransfer.stages import heads

OPTIONS = {"steps": 4, "seed": 5, "batch_size": 16}


def test_stage_2_starts_from_the_linear_probe(world, spy):
    calls = spy(probe_then_fine_tune, watch=bytes_of)
    model = transfer(*world, **OPTIONS)
    probe = linear_probe.transfer(*world, **{**OPTIONS, "steps": 2})
    # The head is among them: it is not a fresh one.
    (call,) = calls
    assert call.before == bytes_of(probe)
    assert trainable_count(model) > trainable_count(probe)
    # Everything moves in stage 2, BatchNorm's statistics too.
    assert not set(call.before) & set(bytes_of(model))


@pytest.mark.parametrize(
    ("share", "other"), [(0, fine_tuning), (1, linear_probe)]
)
def test_its_ends_are_other_methods(world, share, other):
    model = transfer(*world, probe_share=share, **OPTIONS)
    same = other.transfer(*world, **OPTIONS)
    assert bytes_of(model) == bytes_of(same)
    assert trainable_count(model) == trainable_count(same)


def test_it_is_the_tuned_end_of_wise_ft(world):
    ours = transfer(*world, **OPTIONS)
    theirs = wise_ft.transfer(*world, alpha=1, **OPTIONS)
    assert bytes_of(ours) == bytes_of(theirs)


def test_the_second_stage_has_epochs_of_its_own(world, spy):
    probes = spy(heads, instead=idle)
    tunings = spy(probe_then_fine_tune, instead=idle)
    transfer(*world, **OPTIONS)
    seeds = [call.kwargs["seed"] for call in (*probes, *tunings)]
    assert seeds == [5, stream(5, "stage", 2)]


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_outside_0_and_1_is_refused(world, share):
    with pytest.raises(KTransferError, match="expected 0 to 1"):
        transfer(*world, probe_share=share, **OPTIONS)


def test_the_stages_share_the_steps(world, fits):
    transfer(*world, probe_share=0.25, **{**OPTIONS, "steps": 5})
    assert [fit.steps for fit in fits] == [1, 4]

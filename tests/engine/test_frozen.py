"""Partial evaluation gives what the whole graph gives, and less work."""

import keras
import numpy as np
import pytest
from helpers import bytes_of, silenced, sizes_of, small_backbone, small_task
from keras import layers

from ktransfer.engine import feature_cache, frozen
from ktransfer.engine.training import fit
from ktransfer.errors import NotApplicable
from ktransfer.models.blocks import blocks
from ktransfer.models.layers import InferenceMode
from ktransfer.models.surgery import attach_head, classifier, copy, freeze


@pytest.fixture
def task():
    return small_task("target", 1)


def build(task, frozen_blocks, **options):
    backbone = small_backbone(**options)
    for name in frozen_blocks:
        freeze(blocks(backbone)[name])
    return classifier(backbone, task, seed=0, hidden_units=5)


ALL = ["block1", "block2", "block3"]


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("chosen", [ALL, ALL[:2], ALL[:1], ["block2"]])
def test_cached_and_live_training_agree(
    task, monkeypatch, chosen, normalised, fits
):
    def trained():
        model = build(task, chosen, normalised=normalised)
        fit(
            model,
            task.train,
            steps=6,
            learning_rate=1e-2,
            seed=0,
            batch_size=16,
        )
        return model

    cached = trained()
    monkeypatch.setattr(frozen, "MEMORY_BUDGET", 0)
    live = trained()
    first, second = fits
    assert (first.cached > 0) == ("block1" in chosen)
    assert second.cached == 0
    for a, b in zip(cached.variables, live.variables, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5)


def test_the_backbone_is_computed_once_an_image(task, spy):
    calls = spy(feature_cache, "forward")
    model = build(task, ALL)
    fit(model, task.train, steps=30, learning_rate=1e-2, seed=0, batch_size=16)
    assert sizes_of(calls) == [48]


def test_images_that_are_never_drawn_are_never_computed(task, spy):
    calls = spy(feature_cache, "forward")
    fit(
        build(task, ALL),
        task.train,
        steps=1,
        learning_rate=1e-2,
        seed=0,
        batch_size=8,
    )
    assert sizes_of(calls) == [8]


def test_the_cut_is_as_far_up_as_the_frozen_part_goes(task):
    parts = frozen.split(build(task, ALL[:2]))
    ((origin, prefix),) = parts.prefixes.values()
    assert origin == "target"
    # The pooling behind the frozen convolution belongs to the frozen part.
    assert prefix.output.shape == (None, 3, 3, 6)
    assert list(parts.inputs) == ["cached_0"]


def test_dropout_in_the_frozen_part_keeps_it_live(task):
    parts = frozen.split(build(task, ALL, dropout=0.5))
    ((_, prefix),) = parts.prefixes.values()
    assert prefix.layers[-1].name == "block2_relu"


def test_inference_mode_shelters_dropout(task):
    backbone = small_backbone((12, 12, 1), dropout=0.5)
    freeze(backbone)
    inputs = keras.Input((12, 12, 1), dtype="uint8")
    x = InferenceMode(backbone, name="sheltered")(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    ((_, prefix),) = frozen.split(model).prefixes.values()
    assert prefix.output.shape == (None, 8)


def test_thawed_batch_normalisation_is_live(task):
    model = build(task, ALL, normalised=True)
    blocks(model)["block1"][1].trainable = True
    ((_, prefix),) = frozen.split(model).prefixes.values()
    assert [x.name for x in prefix.layers][-1] == "block1_conv"


def test_two_frozen_sources_of_equal_names_are_both_cached(task):
    inputs = keras.Input((12, 12, 3), dtype="uint8")
    sources = [small_backbone(seed=s) for s in (0, 1)]
    for number, source in enumerate(sources):
        source.name = f"source_{number}"
        freeze(source)
    x = layers.Concatenate()([source(inputs) for source in sources])
    model = keras.Model(inputs, layers.Dense(3, name="logits")(x))
    parts = frozen.split(model)
    assert sum(p.output.shape[-1] for _, p in parts.prefixes.values()) == 16


def dead_backbone(name):
    backbone = silenced(small_backbone((12, 12, 1)), name)
    freeze(backbone)
    return backbone


def test_features_that_have_died_are_named(task):
    """Training on shuffled labels may end so; the kernel had no gradient."""
    model = classifier(dead_backbone("dead"), task, seed=0)
    with pytest.raises(NotApplicable, match="are 0 for every labelled image"):
        fit(model, task.train, steps=2, seed=0)


def test_one_source_that_is_alive_is_enough(task):
    alive = copy(small_backbone((12, 12, 1)), "alive")
    freeze(alive)
    inputs = keras.Input((12, 12, 1), dtype="uint8")
    features = [alive(inputs), dead_backbone("dead")(inputs)]
    logits = layers.Dense(3)(layers.Concatenate()(features))
    fit(keras.Model(inputs, logits), task.train, steps=2, seed=0)


def test_what_depends_on_progress_or_on_two_streams_is_live():
    names = ("target", "source", "progress")
    shapes = ((12, 12, 3), (12, 12, 3), (1,))
    inputs = {n: keras.Input(s, name=n) for n, s in zip(names, shapes)}
    flat = layers.Flatten(name="flat")
    dense = layers.Dense(4, name="frozen_dense", trainable=False)
    pair = layers.Concatenate()(
        [dense(flat(inputs["target"])), dense(flat(inputs["source"]))]
    )
    timed = layers.Dense(2, trainable=False, name="timed")(inputs["progress"])
    model = keras.Model(inputs, [pair, timed])
    parts = frozen.split(model)
    assert [origin for origin, _ in parts.prefixes.values()] in (
        ["target", "source"],
        ["source", "target"],
    )
    assert list(parts.inputs) == ["cached_0", "cached_1", "progress"]


def test_a_model_without_frozen_weights_is_left_alone(task):
    assert frozen.split(build(task, [])).prefixes == {}


def test_saved_models_hold_inference_mode(tmp_path, task):
    backbone = small_backbone((12, 12, 1), normalised=True)
    inputs = keras.Input((12, 12, 1), dtype="uint8", name="images")
    sheltered = keras.Model(inputs, InferenceMode(backbone, name="s")(inputs))
    model = attach_head(sheltered, 3, seed=0)
    statistics = {
        v.path: v.numpy().tobytes() for v in backbone.non_trainable_variables
    }
    gamma = blocks(model)["block1"][1].gamma.numpy()
    fit(model, task.train, steps=4, learning_rate=1e-2, seed=0, batch_size=16)
    assert statistics == {
        v.path: v.numpy().tobytes() for v in backbone.non_trainable_variables
    }
    assert (blocks(model)["block1"][1].gamma.numpy() != gamma).any()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(task.train.x), model(task.train.x))


def test_outputs_may_be_cached_values_and_raw_inputs_themselves(task, fits):
    """A teacher's answers, the progress and the images pass through."""
    teacher = classifier(small_backbone(), task, seed=1, name="teacher")
    freeze(teacher)
    student = build(task, [])
    images = keras.Input((12, 12, 1), dtype="uint8", name="target")
    progress = keras.Input((1,), name="progress")
    outputs = {
        "logits": student(images),
        "teacher": teacher(images),
        "progress": progress,
        "images": images,
    }
    model = keras.Model({"target": images, "progress": progress}, outputs)
    seen = {}

    def loss(labels, outputs):
        seen.update({name: x.shape for name, x in outputs.items()})
        error = outputs["logits"] - outputs["teacher"]
        return keras.ops.mean(error**2) * (1 + outputs["progress"][0, 0])

    before = bytes_of(teacher)
    fit(
        model,
        {"target": task.train},
        steps=3,
        learning_rate=1e-2,
        seed=0,
        batch_size=16,
        loss=loss,
    )
    assert fits[-1].cached == 3
    assert seen["images"] == (16, 12, 12, 1) and seen["progress"] == (16, 1)
    assert before == bytes_of(teacher)


def test_a_model_saves_after_training_on_cached_and_raw_inputs(
    tmp_path, task, fits
):
    inputs = keras.Input((12, 12, 1), dtype="uint8", name="images")
    held, live = (
        small_backbone((12, 12, 1)),
        small_backbone((12, 12, 1), seed=1),
    )
    held.name, live.name = "held", "live"
    freeze(held)
    joined = layers.Concatenate(name="join")([held(inputs), live(inputs)])
    model = keras.Model(inputs, layers.Dense(3, name="logits")(joined))
    fit(model, task.train, steps=2, learning_rate=1e-2, seed=0, batch_size=16)
    assert fits[-1].cached == 8
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(task.train.x), model(task.train.x))

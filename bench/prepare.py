"""Write what the contenders read: images, a frozen network, its features."""

import json
import sys
from pathlib import Path

import keras
import numpy as np

from ktransfer import data, runs
from ktransfer.engine import backend
from ktransfer.engine.prediction import predict
from ktransfer.models.surgery import adapt_input, copy_backbone
from ktransfer.runs import sources


def main(folder, steps, starts):
    source_task = data.load("cifar10")
    pretraining = runs.Pretraining(
        "cifar10", None, "convnet", steps, 0, "pretrain"
    )
    for seed in range(starts):
        untrained = sources.build(pretraining._replace(seed=seed), source_task)
        untrained.save(folder / f"untrained_{seed}.keras")
    model = sources.pretrain(pretraining, source_task)
    model.save(folder / "source.keras")
    backbone = copy_backbone(model)
    target = data.load("mnist")
    reader = adapt_input(backbone, target.image_shape)
    # For who knows Keras's layers alone.
    images = keras.Input(target.image_shape, dtype="uint8")
    x = keras.layers.ZeroPadding2D(2)(images)
    plain = keras.Model(images, backbone(keras.layers.Concatenate()([x, x, x])))
    plain.save(folder / "backbone.keras")
    test = data.test_split("mnist")
    source_test = data.test_split("cifar10")
    kernels = [v.numpy() for v in backbone.weights]
    names = [f"{number:02}" for number in range(len(kernels))]
    np.savez(folder / "weights.npz", **dict(zip(names, kernels)))
    arrays = {
        "train_x": target.train.x,
        "train_y": target.train.y,
        "test_x": test.x,
        "test_y": test.y,
        "train_z": predict(reader, target.train.x),
        "test_z": predict(reader, test.x),
        "padded_x": _padded(target.train.x),
        "padded_test_x": _padded(test.x),
        "source_x": source_task.train.x,
        "source_y": source_task.train.y,
        "source_test_x": source_test.x,
        "source_test_y": source_test.y,
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    facts = backend.facts()
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    for model, x in ((backbone, arrays["padded_test_x"]), (plain, test.x)):
        found = predict(model, x[:50])
        wanted = arrays["test_z"][:50]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def _padded(x):
    """Return 28 x 28 grey images as the 32 x 32 x 3 that the network takes."""
    around = ((0, 0), (2, 2), (2, 2), (0, 0))
    return np.repeat(np.pad(x, around), 3, axis=-1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

"""D: PyTorch on the CPU, the frozen network in every step or only once."""

import os
import sys

import numpy as np
import torch
from common import BATCH, EPOCHS, FOLDER, RATE, UNITS, Epochs, arrays, report
from torch import nn

CACHED = "cached" in sys.argv


def backbone():
    """Return the network of the folder, for images `(n, 3, 32, 32)` in 0..1."""
    parts, width = [], 3
    for number, filters in enumerate((32, 64, 64)):
        parts += [nn.Conv2d(width, filters, 3), nn.ReLU()]
        parts += [nn.MaxPool2d(2)] if number < 2 else [nn.Flatten()]
        width = filters
    model = nn.Sequential(*parts)
    with np.load(FOLDER / "weights.npz") as kept:
        arrays = [kept[name] for name in sorted(kept.files)]
    layers = [layer for layer in model if isinstance(layer, nn.Conv2d)]
    with torch.no_grad():
        for number, layer in enumerate(layers):
            kernel, bias = arrays[2 * number : 2 * number + 2]
            layer.weight.copy_(torch.tensor(kernel.transpose(3, 2, 0, 1)))
            layer.bias.copy_(torch.tensor(bias))
    return model.eval()


def pixels(x):
    return torch.tensor(x).permute(0, 3, 1, 2).float() / 255


@torch.no_grad()
def features(base, x):
    found = [base(pixels(x[i : i + 250])) for i in range(0, len(x), 250)]
    return torch.cat(found)


def main():
    x, y, test_x, test_y = arrays(
        "padded_x", "train_y", "padded_test_x", "test_y"
    )
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    base = backbone()
    torch.manual_seed(0)
    clock = Epochs()
    head = nn.Sequential(
        nn.Linear(1024, UNITS), nn.ReLU(), nn.Linear(UNITS, 10)
    )
    optimizer = torch.optim.Adam(head.parameters(), RATE)
    loss = nn.CrossEntropyLoss()
    labels = torch.tensor(y, dtype=torch.long)
    known = features(base, x) if CACHED else None
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(y)).split(BATCH):
            if CACHED:
                z = known[rows]
            else:
                with torch.no_grad():
                    z = base(pixels(x[rows.numpy()]))
            optimizer.zero_grad()
            loss(head(z), labels[rows]).backward()
            optimizer.step()
        clock.end()
    with torch.no_grad():
        guesses = head(features(base, test_x)).argmax(-1).numpy()
    report(clock.seconds, guesses, test_y, threads=torch.get_num_threads())


main()

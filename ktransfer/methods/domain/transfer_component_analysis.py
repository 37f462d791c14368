"""Transfer components (TCA): kernel axes on which the domains' means agree.

phi is the source's backbone, frozen. On at most `max_images` features of each
domain (1500 is ours), n together, K is the kernel matrix, L = e e' with e_i = 1
/ n_s for the source and -1 / n_t for the target, and H centres. The leading
eigenvectors W of (K L K + mu I)^-1 K H K are the directions that vary most
while the domains' means stay close, mu being `regularization`; an image's
components are k(x)' W, k(x) its kernel with the images kept. Softmax
regression, at its minimum with `penalty` (ours) times ||kernel||^2, learns
those of the source; `steps` go unused. No label of the target is read.

Ours: the kernel exp(-|x - y|^2 / median squared distance) and 64 components, or
less where the kernel matrix has fewer. W' K H K W = I gives all components one
variance, 1 / n; here they are centred and have variance 1.
Since L has rank one, all is one symmetric eigenproblem of size n.

`standardize` gives each domain's features mean 0 and deviation 1 of its own
first, as CORAL and SA do. It is no part of the method: neither the problem
above nor the implementations seen have it, so that False is the default (that
the authors scaled no data in their experiments is unverified). Beside CORAL and
SA it belongs on, since it alone gives most of their gain.

Row: M27 (article 003; article 004); article 000 (references).
Source: Pan et al. 2011. https://doi.org/10.1109/TNN.2010.2091281
"""

import numpy as np

from ktransfer.engine.kinds import Count, Positive, check
from ktransfer.engine.prediction import predict
from ktransfer.models.layers import KernelComponents
from ktransfer.seeds import stream
from ktransfer.stages.alignment import (
    aligned,
    num_kept,
    read_domains,
    standardised,
)


def transfer(
    target,
    source,
    *,
    steps,
    seed,
    num_components: Count = 64,
    regularization: Positive = 1.0,
    max_images: Count = 1500,
    standardize: bool = False,
    penalty: Positive = 1e-3,
):
    check("Positive", regularization=regularization)
    check("Count", max_images=max_images)
    readers, images = read_domains(target, source)
    if standardize:
        readers = standardised(readers, images)
    points = [
        predict(readers[name], _sample(images[name], max_images, seed, name))
        for name in ("source", "target")
    ]
    layer = _layer(points, num_components, regularization)
    maps = {"target": layer, "source": layer}
    return aligned(target, source, readers, maps, seed=seed, penalty=penalty)


def _sample(images, most, seed, name):
    """Return at most `most` of the images of the domain `name`, drawn."""
    order = np.random.default_rng(stream(seed, "kernel", name))
    return images[np.sort(order.permutation(len(images))[:most])]


def _layer(points, num_components, regularization):
    """Return the frozen layer from features to standardised components."""
    sides = np.concatenate(
        [np.full(len(x), sign / len(x)) for x, sign in zip(points, (1, -1))]
    )
    points = np.concatenate(points)
    squares = _squares(points.astype("float64"))
    apart = squares[squares > 1e-9 * squares.max()]
    width = float(np.median(apart)) if len(apart) else 1.0
    kernel = np.exp(-squares / width)
    w = _components(kernel, sides, num_components, regularization)
    layer = KernelComponents(len(w), w.shape[1], width, name="components")
    layer.build((None, points.shape[1]))
    layer.set_weights([points, w, -np.mean(kernel @ w, axis=0)])
    return layer


def _squares(x):
    """Return the squared distances of all pairs, exactly 0 to themselves."""
    x = x - x[0]
    products = x @ x.T
    norms = np.diag(products)
    return np.maximum(norms[:, None] + norms - 2 * products, 0)


def _components(kernel, sides, num_components, mu):
    """Return W `(n, k)`, scaled so that H K W has columns of variance 1.

    With v = K e the matrix K L K + mu I = v v' + mu I has an inverse root in
    closed form, P = I / sqrt(mu) - c v v'. The eigenvectors are P u, for u
    those of the symmetric P K H K P.
    """
    v = kernel @ sides
    least, most = np.sqrt(mu), np.sqrt(mu + v @ v)
    c = 1 / (least * most * (least + most))
    centred = kernel - kernel.mean(axis=0)
    half = centred / least - c * np.outer(centred @ v, v)
    values, vectors = np.linalg.eigh(half.T @ half)
    k = num_kept(values, num_components)
    values, vectors = values[: -k - 1 : -1], vectors[:, : -k - 1 : -1]
    w = vectors / least - c * np.outer(v, v @ vectors)
    return w * np.sqrt(len(v) / values)

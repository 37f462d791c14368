"""Train and predict, each in one way.

- `training`, `options`: `fit`, and the options of a training.
- `prediction`: `predict`.
- `arguments`, `promises`: what is checked before a training and after it.
- `batches`: which images each step takes.
- `frozen`, `feature_cache`: what is frozen is computed once.
- `programs`, `structures`: what is compiled is compiled once an architecture.
- `normalization`, `precision`: BatchNorm's statistics; bfloat16.
- `optimizers`, `losses`: by name, and those that several methods share.
- `backend`: what is done in TensorFlow itself.
"""

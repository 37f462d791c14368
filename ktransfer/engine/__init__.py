"""Train and predict, each in one way.

- `training`: `fit` and `predict`.
- `frozen`, `feature_cache`: what is frozen is computed once.
- `programs`, `structures`: what is compiled is compiled once an architecture.
- `optimizers`, `losses`: by name, and those that several methods share.
- `backend`: what is done in TensorFlow itself.
"""

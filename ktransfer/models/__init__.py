"""Networks, and what is done to them.

- `graph`, `blocks`: read a model's graph, and where it can be cut.
- `surgery`: cut, copy, freeze, adapt and mix models.
- `own`: sources, and what a user's model is brought into.
- `backbones`: functional builders, images -> features.
- `imagenet_lite0`: EfficientNet-Lite0 with its ImageNet weights.
- `torch_file`: state dicts that PyTorch wrote, read without it.
- `layers`, `handmade`: layers that the suite adds to Keras.
"""

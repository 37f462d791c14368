"""Networks, and what is done to them.

- `surgery`: cut, copy, freeze, adapt and mix models.
- `backbones`: functional builders, images -> features.
- `layers`, `handmade`: layers that the suite adds to Keras.
"""

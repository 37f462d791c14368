"""ktransfer: every way of transferring knowledge between Keras models.

The names below are the public surface. They are imported on first use, so
that `import ktransfer` costs no TensorFlow.
"""

import importlib
import os

# Read by Keras when it is imported. The suite's numbers are of TensorFlow.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Read by TensorFlow, which leaves the kernels of oneDNN off where a processor
# lacks AVX-512; a convolution then takes twice the time.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

__version__ = "0.1.0"

_HOME = {
    "Split": "data",
    "Task": "data",
    "load": "data",
    "load_images": "data",
    "Source": "models.own",
    "load_source": "models.own",
    "recommend": "report.recommendation",
    "Recommendation": "report.recommendation",
    "attach_head": "models.surgery",
    "adapt_input": "models.surgery",
    "copy_backbone": "models.surgery",
    "cut": "models.surgery",
    "freeze": "models.surgery",
    "unfreeze": "models.surgery",
    "interpolate": "models.surgery",
    "load_model": "models.surgery",
    "fit": "engine.training",
    "predict": "engine.prediction",
    "KTransferError": "errors",
    "Run": "runs",
}
_MODULES = (
    "analysis",
    "data",
    "engine",
    "errors",
    "measures",
    "methods",
    "models",
    "plots",
    "report",
    "runs",
    "stages",
)
__all__ = [*_HOME, *_MODULES]


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"ktransfer.{name}")
    if name in _HOME:
        module = importlib.import_module(f"ktransfer.{_HOME[name]}")
        return getattr(module, name)
    raise AttributeError(f"module 'ktransfer' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__])

"""Image classification tasks: embedded, downloaded, or the user's own.

`load` gives a `Task` without its test split, which `test_split` opens for
evaluation alone; `load_images` reads a folder of images anywhere. Nothing here
imports Keras, and nothing is unpickled.
"""

from ktransfer.data.archives import without_network
from ktransfer.data.image_report import ImageReport
from ktransfer.data.images import Images, load_images, pack
from ktransfer.data.pictures import FITS
from ktransfer.data.split import Split
from ktransfer.data.subsets import subset, validation_split
from ktransfer.data.tasks import (
    Task,
    check_name,
    classes,
    digest,
    load,
    names,
    sealed,
    test_split,
)

__all__ = [
    "FITS",
    "ImageReport",
    "Images",
    "Split",
    "Task",
    "check_name",
    "classes",
    "digest",
    "load",
    "load_images",
    "names",
    "pack",
    "sealed",
    "subset",
    "test_split",
    "validation_split",
    "without_network",
]

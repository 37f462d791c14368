"""Images of one's own, from a folder anywhere: a task, its test part, a report.

`load_images` reads them, `pack` keeps them as an .npz that has a name as all
data sets have.
"""

import io
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ktransfer import files
from ktransfer.data import folders, tasks
from ktransfer.data.image_report import ImageReport
from ktransfer.data.split import Split
from ktransfer.errors import KTransferError


class Images(NamedTuple):
    """What a folder of images holds.

    Fields:
        task: the training images, a `Task`, whose `labels` are the names of
            the classes. Its name is that of the folder.
        test: the test part, a `Split`, for the one evaluation at the end.
        report: the `ImageReport`, which prints as text.
    """

    task: tasks.Task
    test: Split
    report: ImageReport


def load_images(
    folder: str | os.PathLike,
    *,
    image_size: int | tuple[int, int] | None = None,
    fit: str = "pad",
    test_share: float = 0.2,
    seed: int = 0,
) -> Images:
    """Return the `Images` in `folder/<class>/*`.

    The classes, sorted by name, get the labels 0, 1, ... Images are grey if
    all are, else RGB; `pictures.read` says what becomes of rotation marks,
    transparency and animations. What is no readable image is left out and
    reported.

    Where the folder has `train/<class>` and `test/<class>` (or `val`, `valid`
    or `validation` without a `test`), these are the parts. Else each class
    gives some images to the test part, and equal images are on one side.

    Args:
        folder: anywhere.
        image_size: (height, width), or one side of a square, at most 1,024.
            None keeps one size that all images have, up to 224 pixels;
            otherwise it is the median of their shorter sides, at most 96.
        fit: how an image of another size gets it. "pad" keeps all of it
            between black bars, "crop" cuts the middle out, "stretch" changes
            its proportions.
        test_share: of each class for the test part, between 0 and 1.
        seed: of the choice of the test part, a whole number from 0.

    Raises:
        KTransferError: `E_ARGUMENT` or `E_UNKNOWN` for what is asked for,
            `E_SUBSET` for a class with too few images, `E_LABELS` for names
            of classes, `E_IMAGES` for pixels that are all the same, and
            `E_MEMORY`.
    """
    problem, report = folders.read(folder, image_size, fit, test_share, seed)
    task = tasks.as_task(report.folder, problem, report.folder)
    return Images(task, problem.test, report)


def pack(
    folder: str | os.PathLike, file: str | os.PathLike, **options: Any
) -> Images:
    """Write the images in a folder to an .npz, and return the `Images`.

    In a folder that KTRANSFER_DATA names, the file is a data set of the name
    before its `.npz`. Equal images give equal bytes. Nothing in it is pickled.

    Args:
        folder, options: as in `load_images`.
        file: to write, with a name that a data set may have.

    Raises:
        KTransferError: `E_ARGUMENT` for the name, `E_DISK` or `E_RESULTS_DIR`
            where it cannot be written, and what `load_images` raises.
    """
    file = Path(file)
    if file.suffix != ".npz":
        raise KTransferError(
            "E_ARGUMENT",
            f"the file to write is {file.name!r}; expected a name that ends "
            "in .npz.",
        )
    tasks.check_new_name(file.stem)
    found = load_images(folder, **options)
    buffer = io.BytesIO()
    np.savez(
        buffer,
        x_train=found.task.train.x,
        y_train=found.task.train.y,
        x_test=found.test.x,
        y_test=found.test.y,
        classes=np.array(found.task.labels),
    )
    files.write(file, buffer.getbuffer())
    return found

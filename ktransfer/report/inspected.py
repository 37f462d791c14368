"""What is printed of a user's model, and of each method with it."""

from collections.abc import Callable, Iterator

from ktransfer import data
from ktransfer.analysis.words import format_seconds
from ktransfer.runs import pace


def lines(
    model: str,
    target: str,
    image_size: int | None,
    jobs: int,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[str]:
    """Give the lines on a model, each as soon as it is known.

    Args:
        model: a text as of `--source-model`.
        target: name of the data set that each method is tried on.
        image_size: of a model of images of any size.
        jobs: worker processes.
        say: called with a line of progress.

    Raises:
        KTransferError: as `load_source`.
    """
    from ktransfer.measures import inspection
    from ktransfer.models import own

    seen = inspection.inspect_model(model, image_size)
    yield from seen.lines()
    if seen.pixels is None:
        yield "Name the pixels behind a colon to see what applies."
        return
    task = data.load(target)
    source = own.load_source(model, image_size=task.image_shape[:2])
    yield from inspection.seen_of_images(source, task.train.x[:500])
    yield ""
    yield f"on {target}, {task.origin}; seconds of 100 steps of 16 images"
    found = pace.paces([model], target, jobs, say)
    wide = max(len(one.method) for one in found)
    for one in found:
        text = (
            one.reason if one.seconds is None else format_seconds(one.seconds)
        )
        yield f"{one.method:<{wide}}  {text}"

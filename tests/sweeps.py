"""Small runs of the embedded data, and an executor that works at once."""

import concurrent.futures

from ktransfer.runs import Run


def planned(*methods, seeds=(0, 1), **fields):
    settings = {
        "experiment": "trial",
        "target": "digits",
        "steps": 2,
        "labels_per_class": 1,
        **fields,
    }
    return [Run(method=m, seed=s, **settings) for m in methods for s in seeds]


def sourced(*methods, seeds=(0,), **fields):
    return planned(
        *methods,
        seeds=seeds,
        sources=("letters_0to4",),
        source_seed=0,
        source_steps=2,
        **fields,
    )


class Here(concurrent.futures.Executor):
    """An executor that works at once, in this process, and keeps count."""

    def __init__(self):
        self.calls = []

    def submit(self, function, *args):
        self.calls.append(function.__name__)
        future = concurrent.futures.Future()
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)
        return future

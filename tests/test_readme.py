"""README says what is so, and its example of a method works as shown."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import small_source, small_task

from ktransfer import methods, runs
from ktransfer.models.blocks import blocks
from ktransfer.report import readme
from ktransfer.runs import scripts

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def text():
    return README.read_text(encoding="utf-8")


def test_the_table_of_methods_is_the_generated_one(text):
    """Mend it by `make readme`."""
    found = re.search(r"<!-- methods -->\n(.*?)<!-- /methods -->", text, re.S)
    assert found.group(1).strip() == readme.method_table()


def test_the_example_is_a_method_when_its_file_is_there(
    text, tmp_path, monkeypatch
):
    code = re.search(r"```python\n# ktransfer/methods/(.*?)```", text, re.S)
    name, _, body = code.group(1).partition("\n")
    assert len(body.splitlines()) <= 15
    file = tmp_path / name
    file.parent.mkdir()
    file.write_text(body, encoding="utf-8")
    monkeypatch.setenv("KTRANSFER_METHODS", str(tmp_path))
    assert methods.names()[file.stem] == file.parent.name
    assert methods.describe(file.stem).min_sources == 1
    target = small_task("target", 1)
    source = small_source(small_task("source", 3), steps=2)
    model = methods.load(file.stem)(target, source, steps=2, seed=0)
    before, after = blocks(source.model), blocks(model)
    for block, moved in (
        ("block1", False),
        ("block2", False),
        ("block3", True),
    ):
        same = np.array_equal(before[block][0].kernel, after[block][0].kernel)
        assert same != moved


def test_the_headline_is_that_of_the_committed_records(text, monkeypatch):
    """Mend it by `make readme`."""
    monkeypatch.chdir(README.parent)
    loaded = scripts.load("cifar10-mnist")
    planned = scripts.planned(loaded, "results")
    records = [
        {**record, "stale": False}
        for path in sorted({runs.record_path("results", r) for r in planned})
        for record in runs.read(path)
        if runs.from_fields(record) in set(planned)
    ]
    assert len(records) == len(planned)
    found = re.search(
        r"<!-- cifar10_mnist -->\n(.*?)<!-- /cifar10_mnist -->", text, re.S
    )
    wanted = readme.result_block(
        "cifar10_mnist", records, shown=loaded.experiment.headline
    )
    assert found.group(1).strip() == wanted


def test_every_row_of_the_articles_is_covered(text):
    rows = set(re.findall(r"\bM\d+\b", text))
    assert {f"M{n}" for n in range(1, 34)} <= rows

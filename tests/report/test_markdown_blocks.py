"""What is put into README: between its marks, and nothing else is touched."""

import pytest
from synthetic import headline, record

from ktransfer import cli
from ktransfer.errors import KTransferError
from ktransfer.report import readme

PAGE = "# Title\n\n<!-- a -->\nold\n<!-- /a -->\n\nText <!-- b -->.\n"


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(PAGE, encoding="utf-8")
    return path


def test_what_stands_between_the_marks_is_replaced(page):
    for _ in range(2):
        readme.fill(page, "a", "new\nlines")
        found = page.read_text(encoding="utf-8")
        assert found == PAGE.replace("old", "new\nlines")


@pytest.mark.parametrize("mark", ["b", "c", "A"])
def test_a_file_without_the_marks_stays_as_it_is(page, mark):
    with pytest.raises(KTransferError, match="lacks the marks") as caught:
        readme.fill(page, mark, "new")
    assert caught.value.name == "E_ARGUMENT"
    assert page.read_text(encoding="utf-8") == PAGE


def test_a_file_that_is_no_text_is_refused(tmp_path, capsys):
    absent, binary = tmp_path / "absent.md", tmp_path / "binary.md"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (absent, binary, tmp_path):
        assert cli.main(["list", "methods", "--into", str(path)]) == 2
        error = capsys.readouterr().err
        assert "cannot be read as a text" in error
        assert len(error.splitlines()) == 1


def test_gains_are_over_the_baseline_that_is_declared(tmp_path):
    """They were over scratch whatever the experiment said."""
    records = [
        record("source_only", family="domain", seed=seed) for seed in range(5)
    ]
    records += [
        record("deep_coral", family="domain", seed=seed, test_accuracy=0.9)
        for seed in range(5)
    ]
    block = readme.result_block(
        "adapt", records, tmp_path, baseline="source_only"
    )
    assert "gain over source_only" in block and "+10.0" in block


def test_a_block_holds_the_table_and_every_figure(tmp_path):
    (tmp_path / "mine").mkdir()
    for name in ("b.png", "a.png", "summary.csv"):
        (tmp_path / "mine" / name).write_bytes(b"")
    block = readme.result_block(
        "mine",
        headline(),
        tmp_path,
        shown=("scratch", "fine_tuning"),
        into=tmp_path / "docs" / "results.md",
    )
    assert block.startswith("```\n") and "and 4 more" in block
    assert block.endswith("```\n\n![a](../mine/a.png)\n\n![b](../mine/b.png)")

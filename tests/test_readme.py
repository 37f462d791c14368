"""README says what is so, and its example of a method works as shown."""

import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import small_world
from keras import layers
from PIL import Image

from ktransfer import methods, runs
from ktransfer.models.blocks import blocks
from ktransfer.report import readme
from ktransfer.runs import scripts

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture
def text():
    return (ROOT / "README.md").read_text(encoding="utf-8")


def part(file, mark):
    content = (DOCS / file).read_text(encoding="utf-8")
    pattern = rf"<!-- {mark} -->\n(.*?)<!-- /{mark} -->"
    return re.search(pattern, content, re.S).group(1).strip()


def test_readme_fits_on_three_screens(text):
    assert len(text.splitlines()) <= 150


def test_every_link_leads_somewhere():
    for file in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*")):
        content = file.read_text(encoding="utf-8")
        # Not what a code block shows.
        content = re.sub(r"```.*?```", "", content, flags=re.S)
        for link in re.findall(r"\]\(([^)\s]+)\)", content):
            place, _, anchor = link.partition("#")
            if "://" in place:
                continue
            found = file.parent / place if place else file
            assert found.exists(), (file.name, link)
            if anchor:
                heads = re.findall(
                    r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.M
                )
                known = [
                    re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-")
                    for h in heads
                ]
                assert anchor in known, (file.name, link)


def test_the_commands_are_targets(text):
    targets = re.findall(
        r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M
    )
    for command in re.findall(r"`?make ([a-z0-9-]+)", text):
        assert command in targets, command


def test_the_table_of_methods_is_the_generated_one():
    """Mend it by `make docs`."""
    assert part("methods.md", "methods") == readme.method_table()


EXAMPLE = ROOT / "examples" / "own_model.py"


def test_the_example_of_ones_own_model_is_that_of_the_file(text):
    code = re.search(r"```python\n(\"\"\"Your model.*?)```", text, re.S).group(
        1
    )
    assert code == EXAMPLE.read_text(encoding="utf-8")
    lines = [x for x in code.splitlines() if x and not x.startswith('"""')]
    assert len(lines) <= 10


@pytest.mark.slow
def test_the_example_of_ones_own_model_runs(tmp_path):
    rng = np.random.default_rng(0)
    for label, bright in (("cat", 40), ("dog", 160)):
        folder = tmp_path / "photos" / label
        folder.mkdir(parents=True)
        for k in range(20):
            pixels = rng.integers(bright, bright + 60, (20, 20, 3))
            image = Image.fromarray(pixels.astype("uint8"))
            image.save(folder / f"{k}.png")
    model = keras.Sequential(
        [
            keras.Input((20, 20, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dropout(0.1),
            layers.Dense(3, activation="softmax"),
        ]
    )
    model.save(tmp_path / "mine.keras")
    done = subprocess.run(
        [sys.executable, EXAMPLE, "mine.keras", "photos", "60s"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Use " in done.stdout and "The source " in done.stdout
    path = tmp_path / done.stdout.splitlines()[-1]
    assert keras.saving.load_model(path).output.shape == (None, 2)


def test_images_of_ones_own_are_used_as_shown(tmp_path, monkeypatch, capsys):
    content = (DOCS / "use.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", content, re.S)
    code = "\n".join(blocks).replace("steps=60", "steps=2")
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for k in range(5):
            pixels = rng.integers(0, 256, (30 + k, 40, 3), "uint8")
            file = tmp_path / "photos" / label / f"{k}.png"
            Image.fromarray(pixels).save(file)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    assert names["right"].shape == (2,)
    assert "10 images read, 2 classes" in capsys.readouterr().out


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
    target, source = small_world()
    model = methods.load(file.stem)(target, source, steps=2, seed=0)
    before, after = blocks(source.model), blocks(model)
    for block, moved in (
        ("block1", False),
        ("block2", False),
        ("block3", True),
    ):
        same = np.array_equal(before[block][0].kernel, after[block][0].kernel)
        assert same != moved


def test_the_headline_is_that_of_the_committed_records(monkeypatch):
    """Mend it by `make docs`."""
    monkeypatch.chdir(ROOT)
    loaded = scripts.load("cifar10-mnist")
    planned = scripts.planned(loaded, "results")
    records = runs.collect("results", planned)
    # A method that came after them is there once the experiment runs again.
    assert len(records) > 0.9 * len(planned)
    wanted = readme.result_block(
        "cifar10_mnist",
        records,
        shown=loaded.experiment.headline,
        into="docs/results.md",
    )
    assert part("results.md", "cifar10_mnist") == wanted


def test_every_row_of_the_articles_is_covered():
    content = (DOCS / "methods.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"\bM\d+\b", content))
    assert {f"M{n}" for n in range(1, 34)} <= rows

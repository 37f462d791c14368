"""The contract, asserted of every method that is found."""

import ast
import contextlib
import functools
import inspect
import itertools
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import OTHERS, bytes_of, small_task, worlds
from keras import layers

from ktransfer import data, methods
from ktransfer.engine import options, programs, training
from ktransfer.errors import KTransferError, NotApplicable
from ktransfer.models.graph import leaves
from ktransfer.models.own import Source

NAMES = sorted(methods.names())
STEPS = 4


def run(name, world, seed=0, **options):
    target, *sources = world
    with data.sealed():
        return methods.load(name)(
            target, *sources, steps=STEPS, seed=seed, **options
        )


def recorded(name, world):
    """Return what the method makes of `world`, and the fits that it took."""
    with training.recording() as fits:
        return run(name, world), fits


def world_of(name):
    """Return the first small world in which it applies, model and fits."""
    reasons = []
    for world in worlds(methods.describe(name).min_sources):
        try:
            return world, *recorded(name, world)
        except NotApplicable as error:
            reasons.append(error.message)
    raise AssertionError(f"{name} applies nowhere: {reasons}")


def code_lines(file):
    """Return the number of lines without docstrings, comments and imports."""
    text = file.read_text(encoding="utf-8")
    skipped = set()
    for node in ast.walk(ast.parse(text)):
        body = getattr(node, "body", None)
        parts = [node] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(body, list) and isinstance(body[0], ast.Expr):
            parts += body[:1] * isinstance(body[0].value, ast.Constant)
        for part in parts:
            skipped |= set(range(part.lineno, part.end_lineno + 1))
    return sum(
        bool(line.strip()) and not line.strip().startswith("#")
        for number, line in enumerate(text.splitlines(), start=1)
        if number not in skipped
    )


@pytest.mark.parametrize("name", NAMES)
def test_documentation_and_test_are_there(name):
    about = methods.describe(name)
    assert about.summary.endswith((".", ":")) and about.family
    assert "https://" in about.citation
    assert code_lines(methods.path(name)) <= 60
    test = Path(__file__).parent / f"test_{name}.py"
    assert test.exists(), f"{name} has no test of its defining property"


@pytest.mark.parametrize("name", NAMES)
def test_it_is_described_as_python_sees_it(name):
    signature = inspect.signature(methods.load(name))
    keywords = {
        p.name: p.default
        for p in signature.parameters.values()
        if p.kind is p.KEYWORD_ONLY and p.name not in ("steps", "seed")
    }
    about = methods.describe(name)
    described = dict(about.hyperparameters)
    if any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        keywords = methods.TRAINING | keywords
    assert described == keywords


def test_what_fit_is_handed_has_the_defaults_of_fit():
    assert options.Options()._asdict() == methods.TRAINING
    assert set(options.OPTION_KINDS) == set(methods.TRAINING)


@pytest.mark.parametrize("name", NAMES)
def test_a_misspelt_hyperparameter_is_a_type_error(name):
    for world in worlds(methods.describe(name).min_sources):
        try:
            with pytest.raises(TypeError, match="temprature"):
                run(name, world, temprature=1)
            return
        except NotApplicable:
            continue
    raise AssertionError(f"{name} applies nowhere")


@pytest.mark.parametrize("name", NAMES)
def test_the_wrong_number_of_sources_is_refused_before_training(name, fits):
    about = methods.describe(name)
    target, *sources = worlds(max(about.min_sources, 1))[0]
    wrong = [sources * 9] if about.max_sources is not None else []
    wrong += [sources[: about.min_sources - 1]] if about.min_sources else []
    for given in wrong:
        with pytest.raises((TypeError, KTransferError)):
            run(name, (target, *given))
        assert not fits


def check_the_contract(name, world, model, fits, folder):
    """Assert the contract of a method that made `model` of `world`."""
    target, *sources = world
    before = [bytes_of(source.model) for source in sources]
    missing = STEPS - sum(fit.steps for fit in fits)
    assert not fits or 0 <= missing <= max(len(fits) - 1, 0)

    # Raw images to logits, of the target's classes.
    x = target.train.x[:7]
    assert model.input.dtype == "uint8"
    assert tuple(model.input.shape[1:]) == target.image_shape
    outputs = np.asarray(model(x))
    assert outputs.shape == (7, target.num_classes)
    assert np.isfinite(outputs).all()

    # Nothing of the source is shared, nothing of it moved.
    own = {id(v) for v in model.variables}
    for source in sources:
        assert not own & {id(v) for v in source.model.variables}

    # What is saved is what is served.
    model.save(folder / "model.keras")
    loaded = keras.saving.load_model(folder / "model.keras")
    np.testing.assert_allclose(loaded(x), outputs, rtol=1e-5, atol=1e-5)

    # Another seed gives other bits, and the same call gives the same ones:
    # the programs that the runs before left behind move none.
    other = bytes_of(run(name, world, seed=1))
    assert other != bytes_of(model) or not fits
    programs.forget()
    assert bytes_of(run(name, world, seed=1)) == other
    assert [bytes_of(source.model) for source in sources] == before
    kinds = {type(leaf).__name__ for leaf in leaves(model)}
    assert "Lambda" not in kinds, "a Lambda does not load safely"


@pytest.mark.parametrize("name", NAMES)
def test_the_contract(name, tmp_path):
    check_the_contract(name, *world_of(name), tmp_path)


def odd_network(shape, seed):
    """Return all that an ordinary Keras model may have, and ours have not.

    It is nested, reads floats behind a `Normalization`, has BatchNorm,
    separable convolutions and dropout, and answers with a softmax; it has no
    layer `features`.
    """
    keras.utils.set_random_seed(seed)
    normalise = layers.Normalization(name="normalise")
    stem = keras.Sequential(
        [
            keras.Input(shape),
            normalise,
            layers.Conv2D(4, 3, padding="same", name="block1_conv"),
            layers.BatchNormalization(name="block1_norm"),
            layers.LeakyReLU(0.1, name="block1_relu"),
            layers.AveragePooling2D(2, name="block1_pool"),
        ],
        name="stem",
    )
    inputs = keras.Input(shape, name="pictures")
    x = layers.SeparableConv2D(6, 3, padding="same", name="block2_conv")(
        stem(inputs)
    )
    x = layers.BatchNormalization(name="block2_norm")(x)
    x = layers.LeakyReLU(0.1, name="block2_relu")(x)
    x = layers.Dropout(0.2, name="block2_dropout")(x)
    x = layers.GlobalAveragePooling2D(name="pooled")(x)
    x = layers.Dense(5, activation="tanh", name="hidden")(x)
    outputs = layers.Dense(3, activation="softmax", name="answer")(x)
    rng = np.random.default_rng(0)
    normalise.adapt(rng.integers(0, 256, (50, *shape)).astype("float32"))
    return keras.Model(inputs, outputs, name="odd")


@functools.cache
def odd_worlds(num_sources):
    """Return worlds of odd networks: of other classes, and of the same.

    In the third one the user names a layer of features that has a Dense layer
    above it. The networks of a world start alike and are trained on.
    """
    found = []
    for channels, labels, features in (
        (3, OTHERS, None),
        (1, (0, 1, 2), None),
        (3, OTHERS, "pooled"),
    ):
        target, sources = small_task("target", 1), []
        for number in range(num_sources):
            task = small_task(f"source {number}", channels)
            task = task._replace(labels=labels)
            model = odd_network(task.image_shape, 0)
            source = Source(model, task, features)
            training.fit(source.model, task.train, steps=3 + number, seed=0)
            sources.append(source)
        found.append((target, *sources))
    return found


# One a family in every run of the tests, all of them among the slow ones.
SOME = (
    *("domain_adversarial", "fine_tuning", "fisher_merging", "fitnets"),
    *("hard_sharing", "label_mapping", "linear_probe", "mean_variance"),
)


@pytest.mark.parametrize(
    "name",
    [
        name if name in SOME else pytest.param(name, marks=pytest.mark.slow)
        for name in NAMES
    ],
)
def test_the_contract_holds_on_an_ordinary_network(name, tmp_path):
    for world in odd_worlds(methods.describe(name).min_sources):
        with contextlib.suppress(NotApplicable):
            check_the_contract(name, world, *recorded(name, world), tmp_path)
            return
    raise AssertionError(f"{name} does not apply to an ordinary network")


@pytest.mark.parametrize(
    "name",
    [
        "classifier_discrepancy",
        "co_tuning",
        "domain_adversarial",
        "gradient_surgery",
        "l2_sp",
        "wise_ft",
    ],
)
def test_a_traced_program_moves_no_bit_of_the_next_run(name, traced):
    """What tracing builds into a program would be that of the first run."""
    world, *_ = world_of(name)
    again = bytes_of(run(name, world, seed=1))
    programs.forget()
    assert bytes_of(run(name, world, seed=1)) == again


def _sources(file):
    return ast.walk(ast.parse(file.read_text(encoding="utf-8")))


def _imported(file):
    for node in _sources(file):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


FILES = sorted(Path(methods.__file__).parents[1].rglob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_a_method_imports_no_method_and_touches_no_test_split(name):
    file = methods.path(name)
    assert not [m for m in _imported(file) if m.startswith("ktransfer.methods")]
    words = {getattr(n, "attr", getattr(n, "id", "")) for n in _sources(file)}
    assert not words & {"test_split", "compile", "callbacks"}


def test_one_module_imports_tensorflow_one_writes_none_unpickles():
    for file in FILES:
        imported = [name.partition(".")[0] for name in _imported(file)]
        assert "pickle" not in imported
        if file.parent.name != "backend":
            assert "tensorflow" not in imported, file
        for node in _sources(file):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("eval", "exec", "yaml.load"), file
                named = [keyword.arg for keyword in node.keywords]
                assert "shell" not in named, file
                if called == "open" and file.name != "files.py":
                    mode = ast.unparse(node.args[1]) if node.args[1:] else "'r'"
                    assert not set("wax+") & set(mode), file
                last = called.rpartition(".")[2]
                assert last not in ("write_text", "write_bytes"), file


def test_only_evaluation_opens_the_test_split():
    users = {
        file.name
        for file in FILES
        if file.parent.name != "data"
        for node in _sources(file)
        if isinstance(node, ast.Attribute) and node.attr == "test_split"
    }
    assert users == {"carry_out.py", "cli.py", "evaluation.py", "sources.py"}


def test_one_module_compiles_and_none_fits():
    for file in FILES:
        for node in _sources(file):
            if isinstance(node, ast.Attribute) and node.attr == "compile":
                owner = ast.unparse(node.value)
                assert file.name == "programs.py" or owner == "re", file


def test_a_world_is_what_it_says():
    for target, *sources in worlds(3):
        assert all(isinstance(source, Source) for source in sources)
        assert target.train.x.dtype == "uint8"
        images = [target.train.x, *(x.task.train.x for x in sources)]
        # Domains of the same classes are shifted only if their images differ.
        for one, other in itertools.combinations(images, 2):
            assert not np.array_equal(one, other)

"""The scores against dense formulas, and what their guards are for."""

import numpy as np
import pytest
from scipy import linalg, optimize

from ktransfer.errors import KTransferError
from ktransfer.measures.transferability import (
    _root,
    centred,
    h_score,
    label_map,
    leep,
    logme,
    nce,
    transrate,
)


@pytest.fixture
def given():
    """Return source probabilities `(60, 5)` and labels of three classes."""
    rng = np.random.default_rng(0)
    theta = rng.dirichlet(np.ones(5), 60)
    return theta, rng.integers(0, 3, 60)


def test_the_map_is_the_joint_frequency_given_the_sources_class(given):
    theta, labels = given
    rows = label_map(theta, labels)
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-12)
    for z in range(5):
        for y in range(3):
            share = theta[labels == y, z].sum() / theta[:, z].sum()
            assert rows[z, y] == pytest.approx(share, abs=1e-12)


def test_leep_is_its_formula_and_never_above_zero(given):
    theta, labels = given
    rows = label_map(theta, labels)
    summed = [
        np.log(sum(rows[z, y] * theta[i, z] for z in range(5)))
        for i, y in enumerate(labels)
    ]
    assert leep(theta, labels) == pytest.approx(np.mean(summed), abs=1e-12)
    assert leep(theta, labels) < 0


def test_a_relabelling_scores_zero_and_an_independent_source_minus_entropy():
    labels = np.tile([0, 0, 1, 2], 10)
    renamed = np.eye(4)[np.array([3, 1, 0])[labels]]
    assert leep(renamed, labels) == pytest.approx(0, abs=1e-12)
    flat = np.tile([0.1, 0.2, 0.7], (40, 1))
    entropy = np.log(2) / 2 + np.log(4) / 2
    assert leep(flat, labels) == pytest.approx(-entropy, abs=1e-12)


def test_the_order_of_the_sources_classes_does_not_matter(given):
    theta, labels = given
    shuffled = theta[:, [3, 0, 4, 1, 2]]
    assert leep(shuffled, labels) == pytest.approx(
        leep(theta, labels), abs=1e-12
    )


def test_a_class_that_the_source_never_answers_is_guarded(given):
    theta, labels = given
    empty = np.concatenate([theta, np.zeros((60, 1))], axis=1)
    rows = label_map(empty, labels)
    np.testing.assert_allclose(rows[5], np.bincount(labels) / 60)
    assert leep(empty, labels) == pytest.approx(leep(theta, labels), abs=1e-12)


def test_a_target_class_without_labels_gets_an_empty_column(given):
    theta, labels = given
    rows = label_map(theta, labels, num_classes=4)
    assert rows.shape == (5, 4) and (rows[:, 3] == 0).all()


# NCE


def test_nce_is_leep_of_one_hot_outputs(given):
    theta, labels = given
    answers = theta.argmax(axis=1)
    assert nce(answers, labels) == pytest.approx(
        leep(np.eye(5)[answers], labels), abs=1e-12
    )


def test_nce_is_minus_the_conditional_entropy(given):
    theta, labels = given
    answers = theta.argmax(axis=1)
    entropy = 0
    for z in set(answers):
        counts = np.bincount(labels[answers == z])
        p = counts[counts > 0] / counts.sum()
        entropy -= (answers == z).mean() * np.sum(p * np.log(p))
    assert nce(answers, labels) == pytest.approx(-entropy, abs=1e-12)
    assert -np.log(3) < nce(answers, labels) < 0


def test_nce_is_zero_if_the_answer_determines_y_and_minus_entropy_if_not():
    labels = np.tile([0, 0, 1, 2], 10)
    # Two of the source's classes may stand for one of the target's.
    assert nce(np.tile([7, 3, 4, 0], 10), labels) == 0
    entropy = np.log(2) / 2 + np.log(4) / 2
    assert nce(np.zeros(40, int), labels) == pytest.approx(-entropy)
    assert nce(np.repeat([5, 2], 20), labels) == pytest.approx(-entropy)


# The three scores of features


@pytest.fixture
def groups():
    """Return features `(60, 7)` that tell three classes apart, and labels."""
    return clustered(60, 7)


def clustered(n, d, seed=0, distance=2.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    means = distance * rng.standard_normal((3, d))
    return means[labels] + rng.standard_normal((n, d)), labels


def rotation(d, seed=1):
    drawn = np.random.default_rng(seed).standard_normal((d, d))
    return np.linalg.qr(drawn)[0]


SCORES = [
    logme,
    h_score,
    lambda f, y: h_score(f, y, "ledoit-wolf"),
    lambda f, y: h_score(f, y, 0.3),
    transrate,
]
score_of = pytest.mark.parametrize(
    "score", SCORES, ids=["logme", "h", "ledoit", "shrunk", "transrate"]
)
shape = pytest.mark.parametrize("n, d", [(60, 7), (12, 30)])


@score_of
@shape
def test_a_rotation_of_the_features_changes_nothing(score, n, d):
    f, y = clustered(n, d)
    assert score(f @ rotation(d), y) == pytest.approx(score(f, y), rel=1e-9)


@score_of
def test_names_and_order_of_the_classes_do_not_matter(score, groups):
    f, y = groups
    gaps = np.array([9, 2, 5])[y]
    assert score(f, gaps) == pytest.approx(score(f, y), rel=1e-12)
    order = np.random.default_rng(0).permutation(60)
    assert score(f[order], y[order]) == pytest.approx(score(f, y), rel=1e-9)


@score_of
def test_scores_are_computed_in_float64_and_maps_are_flattened(score, groups):
    f, y = groups
    single = f[:, :6].astype("float32")
    expected = score(single.astype("float64"), y)
    assert score(single, y) == expected
    assert score(single.reshape(60, 1, 2, 3), y.astype("int32")) == expected
    assert type(score(single, y)) is float


@score_of
def test_classes_that_stand_apart_score_higher_than_shuffled_labels(
    score, groups
):
    f, y = groups
    shuffled = np.random.default_rng(0).permutation(y)
    assert score(f, y) > score(f, shuffled)


@score_of
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_features_that_do_not_vary_give_a_finite_score(score, value, groups):
    assert np.isfinite(score(np.full((60, 7), value), groups[1]))


@score_of
@pytest.mark.parametrize("value", [0.0, 0.1])
def test_a_unit_that_never_varies_and_a_copied_one_are_harmless(
    score, value, groups
):
    f, y = groups
    dead = np.c_[f, np.full(60, value), f[:, :2]]
    assert np.isfinite(score(dead, y))


@score_of
def test_a_class_of_one_image_is_scored(score, groups):
    f, y = groups
    assert np.isfinite(score(f, np.r_[y[:-1], 3]))
    assert np.isfinite(score(f[:3], np.arange(3)))


@score_of
def test_one_class_only_is_scored(score, groups):
    assert np.isfinite(score(groups[0], np.full(60, 4)))


def test_centred_columns_have_mean_zero_and_constant_ones_vanish(groups):
    f = np.c_[groups[0], np.full(60, 0.1)]
    np.testing.assert_allclose(centred(f), f - f.mean(axis=0), atol=1e-14)
    assert (centred(f)[:, -1] == 0).all()


# LogME


def dense_evidence(f, y, alpha, beta):
    """Return log N(y; 0, I / beta + F F' / alpha), nothing simplified."""
    covariance = np.eye(len(f)) / beta + f @ f.T / alpha
    _, logdet = np.linalg.slogdet(2 * np.pi * covariance)
    return -(logdet + y @ linalg.solve(covariance, y, assume_a="pos")) / 2


def largest_evidence(f, y):
    def lost(logs):
        return -dense_evidence(f, y, *np.exp(logs))

    starts = [(a, b) for a in (3, 6) for b in (1, 4)]
    ends = [
        optimize.minimize(lost, start, bounds=[(-9, 16)] * 2)
        for start in starts
    ]
    return -min(end.fun for end in ends)


@pytest.mark.parametrize(
    ("n", "d", "distance"),
    [
        *((60, 7, 2.0), (60, 7, 0.3), (60, 30, 0.2), (60, 59, 0.15)),
        *((40, 40, 2.0), (60, 60, 0.2), (20, 30, 2.0)),
    ],
)
def test_logme_is_the_largest_evidence_over_alpha_and_beta(n, d, distance):
    """Also where the features say little: 11 rounds fall short of it."""
    f, y = clustered(n, d, distance=distance)
    found = [largest_evidence(f, 1.0 * (y == k)) / n for k in range(3)]
    assert logme(f, y) == pytest.approx(np.mean(found), abs=2e-5)
    assert logme(f, y) <= np.mean(found) + 1e-7


@pytest.mark.parametrize(
    ("n", "d", "distance"), [(100, 512, 0.0), (60, 200, 0.0), (40, 200, 0.1)]
)
def test_many_features_that_say_little_cost_the_guards_alone(n, d, distance):
    """Eleven rounds would cost some hundredths of a nat an image."""
    f, y = clustered(n, d, distance=distance)
    found = [largest_evidence(f, 1.0 * (y == k)) / n for k in range(3)]
    assert np.mean(found) - 1e-3 < logme(f, y) <= np.mean(found) + 1e-7


def test_the_guards_keep_logme_below_an_evidence_without_a_bound():
    # With d far above n the labels are fitted exactly, at a beta of infinity.
    f, y = clustered(12, 300, distance=3.0)
    found = [largest_evidence(f, 1.0 * (y == k)) / 12 for k in range(3)]
    assert np.mean(found) - 0.01 < logme(f, y) < np.mean(found)


@shape
def test_logme_is_the_fixed_point_in_its_dense_form(n, d):
    f, y = clustered(n, d)
    evidences = []
    for k in range(3):
        target, alpha, beta = 1.0 * (y == k), 1.0, 1.0
        for _ in range(2000):
            precision = alpha * np.eye(d) + beta * f.T @ f
            mean = beta * linalg.solve(precision, f.T @ target)
            gamma = d - alpha * np.trace(linalg.inv(precision))
            old = alpha / beta
            alpha = gamma / (mean @ mean + 1e-5)
            beta = (n - gamma) / (np.sum((target - f @ mean) ** 2) + 1e-5)
            if abs(alpha / beta - old) <= 1e-10 * old:
                break
        evidences.append(dense_evidence(f, target, alpha, beta) / n)
    assert logme(f, y) == pytest.approx(np.mean(evidences), rel=1e-9)


@pytest.mark.parametrize("place", [-3.7, 0.0, 0.4, 41.3])
def test_a_root_is_found_on_the_way_that_growth_points(place):
    found = _root(lambda x: np.tanh(place - x))
    assert found == pytest.approx(place, abs=1e-12)


def test_of_several_roots_the_first_is_found():
    cubic = np.poly1d([-1.0, 19.0, -111.0, 189.0])
    assert sorted(cubic.roots) == pytest.approx([3, 7, 9])
    assert _root(cubic) == pytest.approx(3, abs=1e-12)
    assert _root(lambda x: -cubic(-x)) == pytest.approx(-3, abs=1e-12)


def test_growth_without_an_end_is_an_error():
    with pytest.raises(KTransferError, match="E_INVARIANT.*no fixed point"):
        _root(lambda x: 1.0)


def test_features_that_are_the_labels_meet_the_guard_of_logme():
    y = np.arange(60) % 3
    assert 1 < logme(np.eye(3)[y], y) < 100


def test_features_of_zeros_leave_logme_the_variance_of_the_labels(groups):
    y = groups[1]
    each = []
    for k in range(3):
        square = np.sum(y == k)
        beta = 60 / (square + 1e-5)
        each.append(np.log(beta / (2 * np.pi)) / 2 - beta * square / 120)
    assert logme(np.zeros((60, 7)), y) == pytest.approx(np.mean(each))


# H-score


def dense_h_score(f, y, shrinkage=0.0):
    means = np.stack([f[y == label].mean(axis=0) for label in y])
    within = np.atleast_2d(np.cov(f, rowvar=False, bias=True))
    between = np.atleast_2d(np.cov(means, rowvar=False, bias=True))
    size = np.trace(within) / len(within)
    shrunk = (1 - shrinkage) * within + shrinkage * size * np.eye(len(within))
    return (1 - shrinkage) * np.trace(linalg.pinv(shrunk) @ between)


def dense_ledoit_wolf(f):
    f = f - f.mean(axis=0)
    n, d = f.shape
    covariance = f.T @ f / n
    identity = np.trace(covariance) / d * np.eye(d)
    spread = np.sum((covariance - identity) ** 2)
    error = sum(np.sum((np.outer(x, x) - covariance) ** 2) for x in f) / n**2
    return min(error, spread) / spread


@shape
def test_h_score_is_the_trace_of_its_matrices(n, d):
    f, y = clustered(n, d)
    assert h_score(f, y) == pytest.approx(dense_h_score(f, y), rel=1e-9)
    for share in (0.1, 0.9):
        assert h_score(f, y, share) == pytest.approx(
            dense_h_score(f, y, share), rel=1e-9
        )
    share = dense_ledoit_wolf(f)
    assert 0.01 < share < 0.9
    assert h_score(f, y, "ledoit-wolf") == pytest.approx(
        dense_h_score(f, y, share), rel=1e-9
    )


def test_the_shrunk_score_is_that_of_others_less_their_mix_of_divisors(groups):
    """They divide cov(f) by n and the covariance of the means by n - 1."""
    covariance = pytest.importorskip("sklearn.covariance")
    f, y = groups
    fitted = covariance.LedoitWolf().fit(f)
    means = np.stack([f[y == label].mean(axis=0) for label in y])
    theirs = (1 - fitted.shrinkage_) * np.trace(
        linalg.pinv(fitted.covariance_) @ np.cov(means, rowvar=False)
    )
    ours = h_score(f, y, "ledoit-wolf")
    assert ours == pytest.approx(theirs * 59 / 60, rel=1e-9)


def test_h_score_lies_between_zero_and_the_classes_less_one(groups):
    f, y = groups
    assert 0 < h_score(f, y) < 2
    assert h_score(f, np.zeros(60, int)) == pytest.approx(0, abs=1e-12)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((3000, 4))
    assert 0 < h_score(noise, rng.integers(0, 3, 3000)) < 0.02


def test_h_score_of_the_labels_themselves_is_the_classes_less_one():
    y = np.array([0] * 5 + [1] * 9 + [2] * 2 + [3])
    # The covariance of one-hot features is singular.
    assert h_score(np.eye(4)[y], y) == pytest.approx(3, rel=1e-12)


def test_invertible_linear_maps_and_shifts_leave_h_score_alone(groups):
    f, y = groups
    drawn = np.random.default_rng(5).standard_normal((7, 7))
    assert h_score(f @ drawn + 3, y) == pytest.approx(h_score(f, y), rel=1e-9)


def test_a_singular_covariance_counts_each_direction_once(groups):
    f, y = groups
    doubled = np.c_[f, f @ np.ones((7, 2)), np.full(60, 0.1)]
    assert h_score(doubled, y) == pytest.approx(h_score(f, y), rel=1e-9)
    assert h_score(np.full((60, 7), 0.1), y) == 0


def test_few_images_saturate_the_plain_score_and_not_the_shrunk_one():
    rng = np.random.default_rng(0)
    noise, y = rng.standard_normal((12, 30)), np.arange(12) % 3
    assert h_score(noise, y) == pytest.approx(2, rel=1e-9)
    assert h_score(noise, y, "ledoit-wolf") < 1.2


def test_shrinkage_only_lowers_h_score_and_its_ends_are_exact(groups):
    f, y = groups
    values = [h_score(f, y, share) for share in (0, 0.2, 0.5, 0.9, 1)]
    assert values == sorted(values, reverse=True)
    assert values[0] == h_score(f, y) and values[-1] == 0
    assert 0 < h_score(f, y, "ledoit-wolf") < h_score(f, y)


def test_one_feature_is_not_shrunk(groups):
    f, y = groups[0][:, :1], groups[1]
    assert h_score(f, y, "ledoit-wolf") == h_score(f, y)
    between = sum(f[y == k].mean() ** 2 for k in range(3)) / 3 - f.mean() ** 2
    assert h_score(f, y) == pytest.approx(between / f.var(), rel=1e-9)


@pytest.mark.parametrize("value", ["ledoit", -0.1, 1.5, float("nan")])
def test_a_shrinkage_that_is_none_is_refused(value, groups):
    with pytest.raises(KTransferError, match="E_ARGUMENT.*'ledoit-wolf'"):
        h_score(*groups, value)


# TransRate


def dense_rate(z, epsilon=1e-4):
    d = z.shape[1]
    inside = np.eye(d) + z.T @ z / (len(z) * epsilon)
    return np.linalg.slogdet(inside)[1] / 2


@shape
@pytest.mark.parametrize("epsilon", [1e-4, 0.5])
def test_transrate_is_the_difference_of_log_determinants(n, d, epsilon):
    f, y = clustered(n, d)
    y[:2] = 2, 2
    z = f - f.mean(axis=0)
    each = [dense_rate(z[y == k], epsilon) for k in range(3)]
    expected = dense_rate(z, epsilon) - np.mean(each)
    assert transrate(f, y, epsilon) == pytest.approx(expected, rel=1e-8)
    if epsilon == 1e-4:
        assert transrate(f, y) == transrate(f, y, epsilon)


def test_a_shift_leaves_transrate_alone_and_a_scale_does_not(groups):
    f, y = groups
    assert transrate(f + 100, y) == pytest.approx(transrate(f, y), rel=1e-9)
    assert transrate(10 * f, y, 0.5) > 1.1 * transrate(f, y, 0.5)


def test_transrate_of_classes_that_do_not_differ_is_zero(groups):
    f = groups[0]
    same, y = np.concatenate([f, f, f]), np.repeat([0, 1, 2], 60)
    assert transrate(same, y) == pytest.approx(0, abs=1e-9)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((6000, 4))
    assert 0 <= transrate(noise, np.arange(6000) % 3) < 0.01


def test_transrate_is_at_least_zero_for_balanced_classes():
    for seed in range(5):
        f, y = clustered(12, 30, seed, distance=0.1)
        assert transrate(f, y) >= 0

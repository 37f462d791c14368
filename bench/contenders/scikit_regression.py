"""E: scikit-learn's logistic regression on the features, to its minimum."""

import time

import numpy as np
from common import arrays, report
from sklearn.linear_model import LogisticRegression

STRENGTH = 1e-3


def main():
    z, y, test_z, test_y = arrays("train_z", "train_y", "test_z", "test_y")
    z, test_z = z.astype("float64"), test_z.astype("float64")
    # Ours is mean CE + strength |W|^2, theirs C x sum CE + |W|^2 / 2.
    model = LogisticRegression(
        C=1 / (2 * STRENGTH * len(y)), max_iter=10_000, tol=1e-6
    )
    start = time.perf_counter()
    model.fit(z, y)
    seconds = time.perf_counter() - start
    p = model.predict_log_proba(z)[np.arange(len(y)), y]
    objective = -p.mean() + STRENGTH * np.sum(model.coef_**2)
    report([seconds], model.predict(test_z), test_y, objective=float(objective))


main()

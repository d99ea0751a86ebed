"""scikit-learn's checks of the estimator contract, for every solver."""

from __future__ import annotations

from sklearn.utils.estimator_checks import parametrize_with_checks

from kerngp.models import RBF, KernelRidge, KernelRidgeClassifier, KernelRidgeCV, White

ESTIMATORS = [
    KernelRidge(),
    KernelRidge(solver="pcg"),
    KernelRidge(solver="inducing"),
    KernelRidge(kernel=2.0 * RBF(3.0) + White(0.1)),
    KernelRidge(kernel="precomputed"),
    KernelRidgeCV(),
    KernelRidgeCV(solver="pcg"),
    KernelRidgeClassifier(),
    KernelRidgeClassifier(kernel="rbf", solver="inducing"),
]


@parametrize_with_checks(ESTIMATORS)
def test_contract(estimator, check):
    check(estimator)

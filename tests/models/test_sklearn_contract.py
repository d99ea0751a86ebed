"""scikit-learn's checks of the estimator contract, for every solver."""

from __future__ import annotations

from sklearn.utils.estimator_checks import parametrize_with_checks

from kerngp.models import RBF, KernelRidge, White

ESTIMATORS = [
    KernelRidge(),
    KernelRidge(solver="pcg"),
    KernelRidge(solver="inducing"),
    KernelRidge(kernel=2.0 * RBF(3.0) + White(0.1)),
    KernelRidge(kernel="precomputed"),
]


@parametrize_with_checks(ESTIMATORS)
def test_contract(estimator, check):
    check(estimator)

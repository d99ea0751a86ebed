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


NO_INTERCEPT = {
    "check_class_weight_classifiers": "wants one class everywhere; f has no intercept, as with "
    "RidgeClassifier(fit_intercept=False)"
}


def expected_failures(estimator):
    return NO_INTERCEPT if isinstance(estimator, KernelRidgeClassifier) else {}


@parametrize_with_checks(ESTIMATORS, expected_failed_checks=expected_failures)
def test_contract(estimator, check):
    check(estimator)

"""scikit-learn's checks of the estimator contract, for the estimators of near points."""

from __future__ import annotations

from sklearn.utils.estimator_checks import parametrize_with_checks

from kerngp.models import KernelDensity, KMeans, KNeighborsClassifier, KNeighborsRegressor, NearestNeighbors

DRAWS = "the draws of first centers depend on the order of the rows, as in scikit-learn"


def expected_failures(estimator) -> dict[str, str]:
    names = ("dense", "sparse") if isinstance(estimator, KMeans) else ()
    return {f"check_sample_weight_equivalence_on_{name}_data": DRAWS for name in names}


@parametrize_with_checks(
    [
        NearestNeighbors(),
        NearestNeighbors(metric="precomputed"),
        KNeighborsClassifier(),
        KNeighborsClassifier(weights="distance", metric="cosine", algorithm="brute"),
        KNeighborsRegressor(),
        KernelDensity(),
        KernelDensity(kernel="tophat"),
        KMeans(n_clusters=3),
    ],
    expected_failed_checks=expected_failures,
    xfail_strict=True,
)
def test_contract(estimator, check):
    check(estimator)

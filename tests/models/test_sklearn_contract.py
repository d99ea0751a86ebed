"""scikit-learn's checks of the estimator contract, for every solver."""

from __future__ import annotations

from sklearn.utils.estimator_checks import parametrize_with_checks

from kerngp.models import RBF, KernelPCA, KernelRidge, Nystroem, SpectralClustering, White

ESTIMATORS = [
    KernelRidge(),
    KernelRidge(solver="pcg"),
    KernelRidge(solver="inducing"),
    KernelRidge(kernel=2.0 * RBF(3.0) + White(0.1)),
    KernelRidge(kernel="precomputed"),
    Nystroem(),
    Nystroem(n_components=10, sampling="rpcholesky"),
    Nystroem(kernel="precomputed"),
    KernelPCA(fit_inverse_transform=True),
    KernelPCA(2, kernel="rbf", eigen_solver="krylov", fit_inverse_transform=True),
    SpectralClustering(),
    SpectralClustering(3, eigen_solver="krylov"),
    SpectralClustering(affinity="nearest_neighbors"),
]


@parametrize_with_checks(ESTIMATORS)
def test_contract(estimator, check):
    check(estimator)

"""What scikit-learn's ecosystem expects of an estimator, for every one there is (see `every_estimator`)."""

from __future__ import annotations

import os
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from every_estimator import ESTIMATORS, EXPECTED_FAILURES, FOR_ANY_ROWS, answers, data_for, fitted, name_of
from sklearn.base import clone, is_clusterer
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import has_fit_parameter

from kerngp.models.inputs import to_numpy


def every(chosen: Any = lambda estimator: True) -> Any:
    """Parametrize a test with the estimators of which something holds."""
    found = [e for e in ESTIMATORS if chosen(e)]
    return pytest.mark.parametrize("estimator", found, ids=name_of)


def takes_points(estimator: Any) -> bool:
    return not get_tags(estimator).input_tags.pairwise


def scores(estimator: Any) -> bool:
    return takes_points(estimator) and hasattr(estimator, "score") and not is_clusterer(estimator)


def follows_x(estimator: Any) -> bool:
    return get_tags(estimator).array_api_support


def close(found: dict[str, Any], expected: dict[str, Any], rtol: float = 1e-9) -> None:
    assert found.keys() == expected.keys() and found
    for key in found:
        a, b = to_numpy(found[key]), to_numpy(expected[key])
        assert a.shape == b.shape and (a.dtype == b.dtype or b.dtype.kind in "OU"), key
        if b.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * (1e-300 + np.abs(b).max()), err_msg=key)
        else:
            np.testing.assert_array_equal(a, b, err_msg=key)


def expected_failures(estimator: Any) -> dict[str, str]:
    return EXPECTED_FAILURES.get(type(estimator).__name__, {})


@parametrize_with_checks(FOR_ANY_ROWS, expected_failed_checks=expected_failures, xfail_strict=True)
def test_scikit_learns_checks(estimator: Any, check: Any):
    check(estimator)


def test_checks_with_other_libraries_are_not_skipped():
    """scikit-learn's checks of its Array API run only if this is set before SciPy is imported."""
    assert os.environ.get("SCIPY_ARRAY_API")


# ---------------------------------------------------------------- copies


@every()
def test_pickle(estimator: Any):
    model = fitted(estimator)
    again = pickle.loads(pickle.dumps(model))
    X = data_for(estimator)[0]
    close(answers(again, X), answers(model, X), rtol=1e-11)
    assert again.get_params().keys() == model.get_params().keys()


@every()
def test_clone(estimator: Any):
    model = fitted(estimator)
    again = clone(model)
    assert str(again) == str(estimator)
    assert not [name for name in vars(again) if name.endswith("_") and not name.startswith("_")]
    X, y = data_for(estimator)
    close(answers(again.fit(X, y), X), answers(model, X), rtol=1e-12)


@every(lambda e: get_tags(e).requires_fit)
def test_not_fitted(estimator: Any):
    X = data_for(estimator)[0]
    methods = [m for m in ("predict", "transform", "score_samples", "kneighbors") if hasattr(estimator, m)]
    for method in methods:
        with pytest.raises(NotFittedError, match="not fitted"):
            getattr(clone(estimator), method)(X)


# ---------------------------------------------------------------- libraries


@every(follows_x)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_tensors_without_dispatch(estimator: Any, dtype: torch.dtype):
    X, y = data_for(estimator)
    X = X.astype(str(dtype).removeprefix("torch."))
    labels = y.dtype.kind in "US"
    x, t = torch.from_numpy(X), y if labels else torch.from_numpy(y)
    model, plain = clone(estimator).fit(x, t), clone(estimator).fit(X, y)
    for name, value in vars(plain).items():
        if isinstance(value, np.ndarray) and name not in ("classes_", "feature_names_in_"):
            assert isinstance(getattr(model, name), torch.Tensor), name
            assert to_numpy(getattr(model, name)).dtype == value.dtype, name
    found = answers(model, x)
    for key, value in found.items():
        assert isinstance(value, torch.Tensor) or key == "predict0" and labels, key
        assert not isinstance(value, torch.Tensor) or not value.requires_grad
    close(found, answers(plain, X), rtol=1e-9 if dtype == torch.float64 else 1e-4)


@every(follows_x)
def test_another_library_than_that_of_the_fit(estimator: Any):
    X, y = data_for(estimator)
    model = clone(estimator).fit(torch.from_numpy(X), y)
    found = answers(model, X)
    assert all(isinstance(v, np.ndarray) for name, v in found.items() if name != "labels_")
    close(found, answers(fitted(estimator), X))
    with sklearn.config_context(array_api_dispatch=True):
        for method in ("predict", "transform", "score_samples"):
            if hasattr(model, method):
                with pytest.raises(ValueError, match=rf"{method}\(\) must use the same namespace"):
                    getattr(model, method)(X)


@every(lambda e: takes_points(e) and hasattr(e, "predict"))
def test_tables(estimator: Any):
    X, y = data_for(estimator)
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = clone(estimator).fit(frame, pd.Series(y))
    assert model.feature_names_in_.tolist() == list("abcd") and model.n_features_in_ == 4
    close({"predict": model.predict(frame)}, {"predict": fitted(estimator).predict(X)})
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[list("badc")])
    with pytest.raises(ValueError, match="X has 3 features"):
        model.predict(X[:, :3])


@every(lambda e: hasattr(e, "transform"))
def test_set_output(estimator: Any):
    X = data_for(estimator)[0]
    model = fitted(estimator)
    out = model.set_output(transform="pandas").transform(X)
    assert isinstance(out, pd.DataFrame) and out.columns.tolist() == model.get_feature_names_out().tolist()
    np.testing.assert_allclose(out.to_numpy(), fitted(estimator).transform(X), rtol=1e-9, atol=1e-12)


@every(lambda e: hasattr(e, "set_callbacks"))
def test_callbacks_of_scikit_learn(estimator: Any):
    """Every iteration is a task; a direct fit has one that is empty."""

    class Counter:
        begun = ended = torn = 0

        def setup(self, estimator: Any, context: Any) -> None: ...

        def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
            self.begun += 1

        def on_fit_task_end(self, estimator: Any, context: Any) -> None:
            self.ended += 1

        def teardown(self, estimator: Any, context: Any) -> None:
            self.torn += 1

    counter, plain = Counter(), fitted(estimator)
    model = clone(estimator).set_callbacks(counter).fit(*data_for(estimator))
    assert counter.begun == counter.ended >= 2 and counter.torn == 1
    if getattr(plain, "n_iter_", 1) > 1:
        assert counter.ended >= 3
    assert vars(model).keys() - vars(plain).keys() == {"_skl_callbacks"}


# ---------------------------------------------------------------- inside other estimators


@every(scores)
def test_pipelines_and_searches(estimator: Any):
    X, y = data_for(estimator)
    steps = [StandardScaler()] if not get_tags(estimator).input_tags.positive_only else []
    model = make_pipeline(*steps, clone(estimator))
    assert np.isfinite(cross_val_score(model, X, y, cv=2, error_score="raise")).all()
    name = model.steps[-1][0]
    parameter = sorted(n for n, v in estimator.get_params(deep=False).items() if not callable(v))[0]
    grid = {f"{name}__{parameter}": [estimator.get_params(deep=False)[parameter]]}
    search = GridSearchCV(model, grid, cv=2, error_score="raise").fit(X, y)
    assert np.isfinite(search.best_score_)


@every(lambda e: scores(e) and has_fit_parameter(e, "sample_weight"))
def test_weights_are_routed(estimator: Any):
    X, y = data_for(estimator)
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.1, 5, len(y))
    with sklearn.config_context(enable_metadata_routing=True):
        asked = clone(estimator).set_fit_request(sample_weight=True)
        search = GridSearchCV(asked, {}, cv=2, refit=True, error_score="raise")
        if (
            has_fit_parameter(asked.score, "sample_weight")
            or "sample_weight" in asked.score.__code__.co_varnames
        ):
            asked.set_score_request(sample_weight=False)
        search.fit(X, y, sample_weight=weight)
    direct = clone(estimator).fit(X, y, sample_weight=weight)
    close(answers(search.best_estimator_, X), answers(direct, X))


@every(lambda e: follows_x(e) and scores(e))
def test_tensors_that_numpy_cannot_reach(estimator: Any, monkeypatch: pytest.MonkeyPatch):
    """As those on a GPU: NumPy's conversion raises, whatever wants it."""
    X, y = data_for(estimator)
    score, x = fitted(estimator).score(X, y), torch.from_numpy(X)
    t = y if y.dtype.kind in "US" else torch.from_numpy(y)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    monkeypatch.setattr(torch.Tensor, "__array__", refuse)
    model = clone(estimator).fit(x, t)
    assert answers(model, x)
    assert model.score(x, t) == pytest.approx(score)

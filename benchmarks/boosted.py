"""What people would fit instead of HENAW: gradient boosting, as age clocks and as a mortality clock.

LightGBM, CatBoost and NGBoost are no dependencies of HENAW: `make bench-setup` installs the pinned versions. Every
model stops early on the calibration people, as HENAW's members do, and sees the same features. Their settings were
chosen by training on 1999-2006 and looking at 2007-2008.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Array = NDArray[np.float64]

LIBRARIES = ("lightgbm", "catboost", "ngboost")
LEVELS = np.arange(1, 100) / 100
"""0.01 … 0.99: the quantile levels by which every age clock is judged."""
_FITTED_LEVELS = np.array([0.01, *np.arange(1, 20) / 20, 0.99])
PATIENCE = 50
MOST_ROUNDS = 2000
TREES = {
    "learning_rate": 0.03,
    "num_leaves": 15,
    "min_data_in_leaf": 40,
    "feature_fraction": 0.8,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 1.0,
    "verbosity": -1,
    "deterministic": True,
    "force_row_wise": True,
}


@dataclass(frozen=True)
class Sample:
    """Features (n, p), NaN = missing, and what is learned from them (n,)."""

    x: Array
    y: Array


AgeModel = Callable[[Array], Array]
"""Features (n, p) → quantiles (n, 99) of age at ``LEVELS``, ascending."""
FitAge = Callable[[Sample, Sample, int], AgeModel]
"""Training people, calibration people, seed → model."""


def missing_libraries() -> list[str]:
    """Those of ``LIBRARIES`` that are not installed."""
    return [name for name in LIBRARIES if importlib.util.find_spec(name) is None]


def _lightgbm(train: Sample, calibration: Sample, seed: int, settings: Mapping[str, Any], **options: Any) -> Any:
    import lightgbm

    data = lightgbm.Dataset(train.x, train.y)
    return lightgbm.train(
        {**TREES, "seed": seed, **settings},
        data,
        MOST_ROUNDS,
        valid_sets=[data.create_valid(calibration.x, calibration.y)],
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
        **options,
    )


def lightgbm_point(train: Sample, calibration: Sample, seed: int) -> AgeModel:
    """The mean by squared error, with the calibration people's residual quantiles around it."""
    model = _lightgbm(train, calibration, seed, {"objective": "regression"})
    residuals = np.quantile(calibration.y - model.predict(calibration.x), LEVELS)
    return lambda x: np.asarray(model.predict(x))[:, None] + residuals


def lightgbm_quantiles(train: Sample, calibration: Sample, seed: int) -> AgeModel:
    """A model for each of 21 levels, sorted where they cross, straight lines in normal scores between.

    A model for each of the 99 levels costs five times as much and is no better (CRPS 7.327 against 7.325).
    """
    models = [
        _lightgbm(train, calibration, seed, {"objective": "quantile", "alpha": level}) for level in _FITTED_LEVELS
    ]
    z, fitted = ndtri(LEVELS), ndtri(_FITTED_LEVELS)
    left = np.clip(np.searchsorted(fitted, z, side="right") - 1, 0, len(fitted) - 2)
    share = (z - fitted[left]) / (fitted[left + 1] - fitted[left])

    def predict(x: Array) -> Array:
        found = np.sort(np.stack([model.predict(x) for model in models], axis=1), axis=1)
        return np.asarray(found[:, left] * (1 - share) + found[:, left + 1] * share)

    return predict


def catboost_gaussian(train: Sample, calibration: Sample, seed: int) -> AgeModel:
    """CatBoost's Gaussian likelihood, mean and variance."""
    from catboost import CatBoostRegressor

    model = CatBoostRegressor(
        loss_function="RMSEWithUncertainty",
        learning_rate=0.03,
        iterations=MOST_ROUNDS,
        random_seed=seed,
        verbose=False,
        allow_writing_files=False,
    )
    model.fit(train.x, train.y, eval_set=(calibration.x, calibration.y), early_stopping_rounds=PATIENCE)

    def predict(x: Array) -> Array:
        mean, variance = model.predict(x).T
        return np.asarray(gaussian_quantiles(mean, np.sqrt(variance)))

    return predict


def ngboost_gaussian(train: Sample, calibration: Sample, seed: int) -> AgeModel:
    """NGBoost with a Gaussian, each tree of a fifth of the people."""
    from ngboost import NGBRegressor
    from sklearn.tree import DecisionTreeRegressor

    model = NGBRegressor(
        Base=DecisionTreeRegressor(max_depth=4, min_samples_leaf=20),
        n_estimators=MOST_ROUNDS,
        learning_rate=0.03,
        minibatch_frac=0.2,
        random_state=seed,
        verbose=False,
    )
    model.fit(train.x, train.y, X_val=calibration.x, Y_val=calibration.y, early_stopping_rounds=PATIENCE)

    def predict(x: Array) -> Array:
        found = model.pred_dist(x)
        return np.asarray(gaussian_quantiles(found.loc, found.scale))

    return predict


def gaussian_quantiles(mean: Array, sd: Array) -> Array:
    """Quantiles (n, 99) at ``LEVELS`` of N(mean, sd²), both (n,)."""
    return np.asarray(mean[:, None] + sd[:, None] * ndtri(LEVELS))


AGE_MODELS: dict[str, FitAge] = {
    "LightGBM quantile": lightgbm_quantiles,
    "LightGBM": lightgbm_point,
    "CatBoost": catboost_gaussian,
    "NGBoost": ngboost_gaussian,
}


def lightgbm_hazards(train: Sample, calibration: Sample, seed: int) -> Callable[[Array], Array]:
    """Proportional hazards: LightGBM on Cox's partial likelihood, features (n, p) → log hazard ratio (n,).

    LightGBM has no such objective, so it is given one. ``y`` is the years of follow-up, negative where they ended
    without death. Trees grow slower than for age: deaths are few.
    """

    def objective(score: Array, data: Any) -> tuple[Array, Array]:
        return cox_gradient(score, data.get_label())

    def metric(score: Array, data: Any) -> tuple[str, float, bool]:
        return "cox", cox_loss(score, data.get_label()), False

    settings = {"objective": objective, "metric": "none", "learning_rate": 0.02, "min_data_in_leaf": 100}
    model = _lightgbm(train, calibration, seed, settings, feval=metric)
    return lambda x: np.asarray(model.predict(x))


def cox_gradient(score: Array, signed_years: Array) -> tuple[Array, Array]:
    """Gradient and diagonal of the Hessian of Breslow's negative log partial likelihood, both (n,).

    With e = exp(score), R_j the sum of e over those at risk at death j, and sums over the deaths that i lived to see:
    e_i·Σ 1/R_j − d_i and e_i·Σ 1/R_j − e_i²·Σ 1/R_j².
    """
    years, died = np.abs(signed_years), signed_years > 0
    relative = np.exp(score - score.max())
    times, position = np.unique(years, return_inverse=True)
    at_risk = np.cumsum(np.bincount(position, relative, len(times))[::-1])[::-1]
    deaths = np.bincount(position, died, len(times))
    first, second = (np.cumsum(deaths / at_risk**power)[position] for power in (1, 2))
    return relative * first - died, np.maximum(relative * first - relative**2 * second, 1e-9)


def cox_loss(score: Array, signed_years: Array) -> float:
    """Breslow's negative log partial likelihood for each death."""
    years, died = np.abs(signed_years), signed_years > 0
    shifted = score - score.max()
    times, position = np.unique(years, return_inverse=True)
    at_risk = np.cumsum(np.bincount(position, np.exp(shifted), len(times))[::-1])[::-1]
    return float(-(shifted - np.log(at_risk)[position])[died].mean())

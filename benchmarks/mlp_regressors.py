"""Sixteen `MLPRegressor`s of scikit-learn as an age clock: their mean, and a spread around it."""

from __future__ import annotations

import os

import numpy as np
from boosted import LEVELS, AgeModel, Sample, gaussian_quantiles
from joblib import Parallel, delayed
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

Array = NDArray[np.float64]

SPREADS = ("residual quantiles", "Gaussian")


def fit_regressors(
    train: Sample, calibration: Sample, hidden: tuple[int, ...], members: int, processes: int, seed: int
) -> dict[str, AgeModel]:
    """Fit ``members`` of them side by side, a core each; returns the ensemble with each of ``SPREADS``.

    They stop early, as scikit-learn does it, by a tenth of the training people. Both spreads are those of the
    calibration people around the mean of the members.
    """
    with Parallel(n_jobs=processes) as parallel:
        models = parallel(delayed(_fit)(train, hidden, seed + number) for number in range(members))

    def mean(x: Array) -> Array:
        return np.mean([model.predict(x) for model in models], axis=0)

    residuals = calibration.y - mean(calibration.x)
    quantiles, sd = np.quantile(residuals, LEVELS), float(np.sqrt(np.mean(residuals**2)))
    return {
        SPREADS[0]: lambda x: mean(x)[:, None] + quantiles,
        SPREADS[1]: lambda x: gaussian_quantiles(mean(x), np.full(len(x), sd)),
    }


def _fit(sample: Sample, hidden: tuple[int, ...], seed: int) -> Pipeline:
    network = MLPRegressor(
        hidden_layer_sizes=hidden, learning_rate_init=0.003, batch_size=200, early_stopping=True, random_state=seed
    )
    model = make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), network)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return model.fit(sample.x, sample.y)

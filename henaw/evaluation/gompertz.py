"""Proportional hazards on a Gompertz baseline, fitted by maximum likelihood: mortality grows by a factor a year."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from henaw.errors import BadInput

Array = NDArray[np.float64]

_START_GROWTH = 0.08  # a year; mortality doubles in about nine


@dataclass(frozen=True)
class Gompertz:
    """Hazard exp(intercept + covariates·coefficients + growth·t) a year, t years after the examination.

    Attributes:
        intercept: log hazard a year at the examination where all covariates are 0.
        coefficients: log hazard ratios, shape (p,).
        growth: rise of the log hazard a year.
    """

    intercept: float
    coefficients: Array
    growth: float

    def log_hazard(self, covariates: Array) -> Array:
        """At the examination, of covariates (n, p); shape (n,)."""
        return np.asarray(self.intercept + covariates @ self.coefficients)

    def survival(self, covariates: Array, years: Array) -> Array:
        """Probability to live ``years`` (q,) after the examination, shape (n, q)."""
        return np.asarray(np.exp(-np.exp(self.log_hazard(covariates))[:, None] * _accumulated(self.growth, years)))


def fit_gompertz(covariates: Array, years: Array, died: Array) -> Gompertz:
    """Maximize Σ [d·log h(t) − H(t)], the likelihood of right-censored follow-up.

    Args:
        covariates: shape (n, p), on scales of about 1.
        years: follow-up from the examination, shape (n,).
        died: 1 died then, 0 censored, shape (n,).

    Raises:
        BadInput: nobody died, a value that is missing, or a likelihood without a maximum that can be found.
    """
    if not np.isfinite(covariates).all() or not np.isfinite([years, died]).all():
        raise BadInput("Gompertz regression: expected covariates and follow-up of everyone, found values missing")
    if not died.any() or not years.any():
        raise BadInput("Gompertz regression: expected people who died, found none")
    design = np.concatenate([np.ones((len(years), 1)), covariates], axis=1)

    def loss(parameters: Array) -> tuple[float, Array]:
        """Mean negative log likelihood and its gradient."""
        growth, linear = parameters[-1], design @ parameters[:-1]
        with np.errstate(over="ignore", invalid="ignore"):
            relative = np.exp(linear)
            cumulative = relative * _accumulated(growth, years)
            log_likelihood = died @ (linear + growth * years) - cumulative.sum()
            by_growth = died @ years - relative @ _accumulated_slope(growth, years)
            gradient = np.append(design.T @ (died - cumulative), by_growth)
        return -log_likelihood / len(years), -gradient / len(years)

    rate = died.sum() / _accumulated(_START_GROWTH, years).sum()
    start = np.array([np.log(rate), *np.zeros(covariates.shape[1]), _START_GROWTH])
    options = {"maxiter": 10_000, "maxfun": 20_000, "ftol": 1e-14, "gtol": 1e-8}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    if not np.isfinite(found.x).all() or np.abs(loss(found.x)[1]).max() > 1e-4:
        raise BadInput(
            "Gompertz regression: no maximum of the likelihood found; expected covariates without far outliers"
        )
    return Gompertz(float(found.x[0]), found.x[1:-1], float(found.x[-1]))


def _accumulated(growth: float, years: Array) -> Array:
    """∫₀ᵗ exp(growth·s) ds."""
    return years if growth == 0 else np.expm1(growth * years) / growth


def _accumulated_slope(growth: float, years: Array) -> Array:
    """Derivative of ``_accumulated`` by ``growth``: ∫₀ᵗ s·exp(growth·s) ds."""
    x = growth * years
    # the closed form cancels where x is small; there a series
    series = years**2 * (1 / 2 + x / 3 + x**2 / 8)
    with np.errstate(divide="ignore", invalid="ignore"):
        closed = (years * np.exp(x) - np.expm1(x) / growth) / growth
    return np.where(np.abs(x) < 1e-4, series, closed)

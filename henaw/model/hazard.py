"""Mortality by biological age: a Gompertz hazard, and the risk that follows from a distribution of biological age.

h(a) = exp(α + βa) a year. From the examination on, a person of biological age BA has the hazard of somebody of BA + t;
over t years it adds up to H = exp(α + β·BA)·(exp(βt) − 1)/β.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from henaw.errors import BadInput
from henaw.model.distribution import EnsembleDistribution
from henaw.model.wasserstein import NODE_WEIGHTS

Array = NDArray[np.float64]

MONTHS = 12.0
_NO_HAZARD = "fewer than two deaths, or nobody was followed for any time; expected follow-up with at least two"


@dataclass(frozen=True)
class Gompertz:
    """log h(a) = α + βa, a in years."""

    alpha: float
    beta: float

    def cumulative(self, age: Array, years: Array | float) -> Array:
        """Hazard accumulated over ``years`` from ``age`` on."""
        total: Array = np.exp(self.alpha + self.beta * age) * np.expm1(self.beta * years) / self.beta
        return total

    def hazard(self, age: Array) -> Array:
        """Deaths a person-year at ``age``."""
        rate: Array = np.exp(self.alpha + self.beta * age)
        return rate

    def survival(self, distribution: EnsembleDistribution, years: Array) -> Array:
        """Probability of being alive after ``years`` (t,), shape (n, t): the mean over the barycenter."""
        nodes = distribution.nodes()
        columns = [np.exp(-self.cumulative(nodes, time)) @ NODE_WEIGHTS for time in years]
        return np.stack(columns, axis=1) if columns else np.empty((len(nodes), 0))

    def risk(self, distribution: EnsembleDistribution, years: float) -> Array:
        """Probability of dying within ``years``, shape (n,)."""
        return 1.0 - self.survival(distribution, np.array([years]))[:, 0]

    def risk_interval(self, distribution: EnsembleDistribution, years: Array, coverage: float) -> tuple[Array, Array]:
        """Ends (n, t) of the central ``coverage`` of the members' own risks within ``years`` (t,).

        It says how far the members disagree about the risk, not what will happen: an outcome has no interval.
        """
        ends = np.empty((2, len(distribution), len(years)))
        levels = [(1 - coverage) / 2, (1 + coverage) / 2]
        for rows, quantiles in distribution.member_nodes():
            hazards = self.hazard(quantiles)
            for column, time in enumerate(years):
                accumulated = hazards * (-np.expm1(self.beta * time) / self.beta)
                risks = 1.0 - np.exp(accumulated, out=accumulated) @ NODE_WEIGHTS
                ends[:, rows, column] = np.quantile(risks, levels, axis=0)
        lower, upper = ends
        return lower, upper


def fit_gompertz(age: Array, years: Array, died: Array) -> Gompertz:
    """Maximum likelihood of the population's hazard by attained age: log L = Σ [d·log h(age + t) − H].

    Args:
        age: at the examination, (n,).
        years: followed up, (n,).
        died: 1 where follow-up ended in death, (n,).

    Raises:
        BadInput: fewer than two deaths, or follow-up without length: there is no hazard to fit.
    """
    if died.sum() < 2 or not (years > 0).any():
        raise BadInput(f"mortality: {_NO_HAZARD}")

    from scipy.optimize import minimize  # answering needs none of it

    def negative(parameters: Array) -> tuple[float, Array]:
        alpha, beta = parameters[0] - beta_shift * parameters[1], parameters[1]
        total = np.exp(alpha + beta * age) * np.expm1(beta * years) / beta
        # ∂H/∂β = H·age + exp(α + β·age)·(t·exp(βt)·β − (exp(βt) − 1))/β²
        slope = total * (age - beta_shift) + np.exp(alpha + beta * age) * (
            years * np.exp(beta * years) / beta - np.expm1(beta * years) / beta**2
        )
        value = (died * (alpha + beta * (age + years)) - total).mean()
        gradient = [(died - total).mean(), (died * (age + years - beta_shift) - slope).mean()]
        return -value, -np.array(gradient)

    beta_shift = float(np.mean(age + years))  # centered: the two parameters are then nearly independent
    rate = died.sum() / years.sum()
    found = minimize(negative, [np.log(rate), 0.09], jac=True, method="L-BFGS-B", bounds=[(-30, 5), (1e-3, 0.5)])
    return Gompertz(float(found.x[0] - beta_shift * found.x[1]), float(found.x[1]))


def recalibrated(hazard: Gompertz, distribution: EnsembleDistribution, years: Array, died: Array) -> Gompertz:
    """Shift and slope of the log hazard that fit a target cohort best.

    log h'(BA + t) = shift + slope·(α + β(BA + t)): again a Gompertz hazard, fitted by the likelihood that integrates
    over each person's biological age.

    Args:
        hazard: of the clock.
        distribution: its predictions for n people.
        years: followed up, (n,).
        died: (n,).

    Raises:
        BadInput: fewer than two deaths, or follow-up without length.
    """
    if died.sum() < 2 or not (years > 0).any():
        raise BadInput(f"recalibrate: {_NO_HAZARD}")
    from scipy.optimize import minimize

    nodes = distribution.nodes()
    log_weights = np.log(NODE_WEIGHTS)

    def scaled(parameters: Array) -> Gompertz:
        shift, slope = parameters
        return Gompertz(shift + slope * hazard.alpha, slope * hazard.beta)

    def negative(parameters: Array) -> float:
        target = scaled(parameters)
        log_hazard = target.alpha + target.beta * (nodes + years[:, None])
        terms = log_weights + died[:, None] * log_hazard - target.cumulative(nodes, years[:, None])
        largest = terms.max(axis=1)
        return -float((largest + np.log(np.exp(terms - largest[:, None]).sum(axis=1))).mean())

    found = minimize(negative, [0.0, 1.0], method="Nelder-Mead", options={"xatol": 1e-5, "fatol": 1e-9})
    return scaled(found.x)

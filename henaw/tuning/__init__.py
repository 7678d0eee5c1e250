"""Tuning: a study searches settings with Optuna, trial by trial. Knows no MLflow: it emits events to listeners."""

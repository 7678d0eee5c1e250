"""The stages of the MLflow project: each reads the settings, calls ``henaw``, logs, and returns what comes next."""

import os

# Settled before any library is imported: nothing calls home, no pickle is read, no progress bars of others.
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GX_ANALYTICS_ENABLED": "false",
}.items():
    os.environ.setdefault(_name, _value)

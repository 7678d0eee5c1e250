"""The stages of the MLflow project: each reads the settings, calls ``henaw``, logs, and returns what the next one needs."""

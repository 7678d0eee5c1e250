"""The stages of the MLflow project: each reads the settings, calls ``henaw``, logs, and returns what comes next."""

from henaw.console import settle_environment

settle_environment()  # a stage imports MLflow while it is imported itself

"""The room that knows MLflow: runs, registered versions, and HENAW's plugin.

MLflow imports ``henaw.registry.mlflow_plugin`` while it is itself being imported, so nothing is imported here.
"""

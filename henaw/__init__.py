"""HENAW: biological age with an honest uncertainty, from blood biomarkers.

The rooms, in reading order: ``data``, ``validation``, ``model``, ``training``, ``evaluation``, ``registry``,
``serving``. ``docs/architecture.md`` is the map.
"""

__version__ = "0.1.0"

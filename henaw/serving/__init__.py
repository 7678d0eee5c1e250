"""Serving: answers for files of rows."""

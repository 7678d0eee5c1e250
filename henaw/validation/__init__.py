"""Validation: the suites in ``expectations/`` judge a participant table; bad rows are set aside, bad tables refused."""

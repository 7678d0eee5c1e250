"""The data room: from a source to a cohort under pseudonyms, cached and split by participant.

``files`` (atomic writing) → ``participants`` (pseudonyms) → ``table`` and ``synthetic`` (sources) → ``cohort`` (who is
studied) → ``cache`` → ``splits``; ``panel`` describes the biomarkers.
"""

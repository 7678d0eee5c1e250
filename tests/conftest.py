"""Fixtures that every part of the suite shares."""

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data beside the repository (``../shared/data``)."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data, which is absent here")
    return folder


@pytest.fixture(scope="session")
def nhanes_table(shared_data: Path) -> Path:
    """The NHANES participant table."""
    return shared_data / "nhanes" / "nhanes_adults.csv.gz"

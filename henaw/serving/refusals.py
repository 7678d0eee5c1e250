"""What the guard refuses: the codes, their status, and the body that says why without a value of the caller's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

STATUS = {
    "MALFORMED_REQUEST": 400,
    "SCHEMA_MISMATCH": 400,
    "WRONG_HOST": 400,
    "UNAUTHENTICATED": 401,
    "FORBIDDEN": 403,
    "NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "REQUEST_TIMEOUT": 408,
    "TOO_LARGE": 413,
    "UNSUPPORTED_MEDIA_TYPE": 415,
    "RATE_LIMITED": 429,
    "OVERLOADED": 429,
    "MODEL_ERROR": 500,
    "NOT_READY": 503,
    "DEADLINE_EXCEEDED": 504,
}
MOST_DETAILS, MOST_BYTES = 20, 4096
_MLFLOW_AGAIN_SECONDS = 5


@dataclass(frozen=True)
class Detail:
    """One thing that is wrong: the row (from 0) and the column of the signature, where it has them, and the rule."""

    row: int | None
    column: str | None
    rule: str


class Refusal(Exception):
    """A request that is not answered; nothing in it comes from the request but row numbers.

    Attributes:
        code: a key of ``STATUS``.
        headers: of the reply, such as ``Retry-After``.
        closes: the connection cannot be used again, as part of the request was not read.
    """

    def __init__(
        self,
        code: str,
        message: str,
        details: Sequence[Detail] = (),
        *,
        headers: Sequence[tuple[bytes, bytes]] = (),
        closes: bool = False,
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.details = code, message, tuple(details)
        self.headers, self.closes = tuple(headers), closes

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return STATUS[self.code]

    def body(self, request_id: str) -> bytes:
        """The JSON body, with as many details as fit."""
        details = [asdict(detail) for detail in self.details[:MOST_DETAILS]]
        while True:
            text = json.dumps(
                {"error_code": self.code, "message": self.message, "request_id": request_id, "details": details}
            ).encode()
            if len(text) <= MOST_BYTES or not details:
                return text
            details.pop()


def without_mlflow() -> Refusal:
    """The refusal of what only MLflow answers, while it does not."""
    return Refusal("NOT_READY", "CSV cannot be answered now; JSON can", headers=retry_after(_MLFLOW_AGAIN_SECONDS))


def retry_after(seconds: int) -> tuple[tuple[bytes, bytes], ...]:
    """The header that says when to come again."""
    return ((b"retry-after", str(max(1, seconds)).encode()),)

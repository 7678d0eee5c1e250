"""The registered model as MLflow runs it: models-from-code around a clock, no pickle.

MLflow copies this file into the model and executes it to load the model; the clock's own files travel as an artifact.

Under a bare ``mlflow models serve`` nothing that happens here shows a caller's row or a stack trace. MLflow's scoring
server adds the trace to whatever a model raises, unless it is an ``MlflowException``; to the message of one it adds the
rows. So everything that goes wrong is raised as one that keeps its message.
"""

from __future__ import annotations

import logging
import secrets
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

from henaw.errors import BadInput, trace_without_text
from henaw.model.answers import DEFAULT_COVERAGE, answer
from henaw.model.clock import Clock
from henaw.model.storage import CLOCK_FOLDER, load_clock

logger = logging.getLogger("henaw.registry.scoring_model")  # __name__ is whatever MLflow calls the copy


class Unanswered(MlflowException):
    """Why there is no answer, in a message that stays as it is; status 400 for the caller's fault, 500 for ours."""

    def __init__(self, said: str, error_code: int) -> None:
        self._said = said
        super().__init__(said, error_code=error_code)

    @property
    def message(self) -> str:
        """What is said, and nothing else."""
        return self._said

    @message.setter
    def message(self, _: str) -> None:
        """Ignore what the scoring server would say: it begins with the caller's rows."""


class Answered(pd.DataFrame):
    """A frame that gives its records at once, where pandas goes from column to column: they are all the server asks."""

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def to_dict(self, orient: Any = "dict", **options: Any) -> Any:
        """As pandas does."""
        if orient != "records" or options:
            return super().to_dict(orient, **options)
        names = self.columns.tolist()
        return [dict(zip(names, row, strict=True)) for row in self.to_numpy(dtype=object).tolist()]


class ScoringModel(PythonModel):
    """Answers rows of biomarkers with biological ages."""

    clock: Clock

    def load_context(self, context: PythonModelContext) -> None:
        """Load the clock; one that does not match its manifest is refused with ``IntegrityError``."""
        self.clock = load_clock(Path(context.artifacts[CLOCK_FOLDER]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One answer a row, see ``henaw.model.answers.answer``; ``params`` may hold ``coverage``.

        Raises:
            Unanswered: whatever goes wrong.
        """
        try:
            answers = answer(self.clock, model_input, _coverage(params or {}))
        except BadInput as error:
            raise Unanswered(str(error), INVALID_PARAMETER_VALUE) from None
        except Exception as error:  # noqa: BLE001 - its text may hold a row
            reference = secrets.token_hex(8)
            logger.error("reference %s: %s", reference, trace_without_text(error))
            said = f"the model failed; the server's log says where under the reference {reference}"
            raise Unanswered(said, INTERNAL_ERROR) from None
        answers.__class__ = Answered  # to make a frame of a frame takes as long as to take one apart
        return answers


def _coverage(params: dict[str, Any]) -> float:
    coverage = params.get("coverage", DEFAULT_COVERAGE)
    if not isinstance(coverage, int | float):
        raise BadInput("coverage: expected a number between 0 and 1")
    return float(coverage)


set_model(ScoringModel())

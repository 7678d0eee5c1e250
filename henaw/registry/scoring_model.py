"""The registered model as MLflow runs it: models-from-code around a clock, no pickle.

MLflow copies this file into the model and executes it to load the model; the clock's own files travel as an artifact.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from henaw.model.answers import DEFAULT_COVERAGE, answer
from henaw.model.clock import Clock
from henaw.model.storage import CLOCK_FOLDER, load_clock


class ScoringModel(PythonModel):
    """Answers rows of biomarkers with biological ages."""

    clock: Clock

    def load_context(self, context: PythonModelContext) -> None:
        """Load the clock; one that does not match its manifest is refused with ``IntegrityError``."""
        self.clock = load_clock(Path(context.artifacts[CLOCK_FOLDER]))

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """One answer a row, see ``henaw.model.answers.answer``; ``params`` may hold ``coverage``."""
        return answer(self.clock, model_input, float((params or {}).get("coverage", DEFAULT_COVERAGE)))


set_model(ScoringModel())

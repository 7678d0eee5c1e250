"""Whether one version can be called as another is."""

from __future__ import annotations

from mlflow.models import ModelSignature


def signature_faults(champion: ModelSignature | None, challenger: ModelSignature | None) -> tuple[str, ...]:
    """Why whoever calls the champion could not call the challenger in the same way, in plain words."""
    if challenger is None or challenger.inputs is None or challenger.outputs is None:
        return ("the challenger has no complete signature",)
    if champion is None or champion.inputs is None or champion.outputs is None:
        return ()
    before, after = ({column.name: str(column.type) for column in each.inputs} for each in (champion, challenger))
    faults = [f"the challenger also needs {name}" for name in after if name not in before]
    faults += [
        f"{name} is {after[name]} and was {before[name]}"
        for name in after
        if before.get(name, after[name]) != after[name]
    ]
    answered = {column.name for column in challenger.outputs}
    faults += [
        f"the challenger does not answer {column.name}" for column in champion.outputs if column.name not in answered
    ]
    return tuple(faults)

"""Stage cache (stand-in)."""
from pipelines.validate import Validated
def run(config, panel, validated: Validated):
    return validated.table

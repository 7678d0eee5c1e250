"""How good a clock is on people it has not seen: scores, a report without participants' values, and plots."""

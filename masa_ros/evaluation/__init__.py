"""How good tracks are: against the truth, or against themselves played backwards."""

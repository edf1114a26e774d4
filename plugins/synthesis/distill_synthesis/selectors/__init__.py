"""Selectors: which sequences of a pool are learned from. One per file; they rank, the engine cuts by the budget."""

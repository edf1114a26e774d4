"""First-party objectives: divergences on the k+1 simplex, hard cross-entropy, hidden states, and schedules."""

__version__ = "0.1.0"

"""First-party teachers: ``hf`` (any Transformers causal language model) and ``store`` (signals captured before)."""

__version__ = "0.1.0"

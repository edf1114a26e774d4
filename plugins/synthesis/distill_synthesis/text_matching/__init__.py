"""Dataset distillation of text: few readable texts that teach what many real ones teach."""

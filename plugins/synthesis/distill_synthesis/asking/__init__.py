"""What every synthesizer that asks a teacher shares: prompts from files, answers on disk, a budget."""

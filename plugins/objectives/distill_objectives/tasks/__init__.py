"""Tasks: what a student predicts where that is not the next token. None of them imports torch."""

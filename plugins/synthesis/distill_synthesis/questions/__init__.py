"""Sources of questions with known answers."""

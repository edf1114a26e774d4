"""Aligners: what a teacher with another tokenizer says, in the student's tokens."""

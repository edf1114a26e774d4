"""Talking to an OpenAI-compatible server: requests that are paid once, answers that are understood exactly."""

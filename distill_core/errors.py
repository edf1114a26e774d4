"""Errors that a person can act on.

Every failure caused by an input (a file, an option, a plugin, a model) is a :class:`DistillError`; the command line
prints its message without a traceback and exits with code 2. Anything else is a bug and shows its traceback.
"""

from __future__ import annotations


class DistillError(Exception):
    """A problem the user can mend: the message says what was received, what was expected and what to do."""


class ConfigError(DistillError):
    """One or more problems of a run file, each with its path in the file."""

    def __init__(self, problems: list[str], *, source: str = "configuration") -> None:
        self.problems = list(problems)
        self.source = source
        count = f"{len(problems)} problem" + ("" if len(problems) == 1 else "s")
        super().__init__(f"{source}: {count}\n" + "\n".join(f"  - {problem}" for problem in problems))


class PluginError(DistillError):
    """A plugin or component that cannot be found, loaded or built."""


class UnknownComponent(PluginError):
    """No plugin offers a component of that kind and name."""


class AmbiguousComponent(PluginError):
    """Two plugins offer the same bare name; the message names both full names."""


class DataError(DistillError):
    """Data that cannot be read or used: names the file and the line, column or row."""


class StoreError(DistillError):
    """A teacher-signal store that is damaged, incomplete or does not fit its use."""


class VocabularyError(DistillError):
    """Teacher and student do not share a vocabulary, or a size disagrees with the tokenizer."""


class SignalError(DistillError):
    """A teacher cannot give a signal (kind, temperature, layer) that an objective needs."""


class TrainingError(DistillError):
    """Training cannot go on: a non-finite loss, broken weights, an unsupported head."""

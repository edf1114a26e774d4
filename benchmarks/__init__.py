"""Benchmarks, run by hand: `python -m benchmarks NAME`. Nothing here is a test."""

import os

# The profiler announces itself on stderr otherwise; read when torch is first imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")

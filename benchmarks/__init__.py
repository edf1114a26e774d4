"""Benchmarks, run by hand: `python -m benchmarks NAME`. Nothing here is a test."""

import os

# Read when torch is first imported. The profiler announces itself on stderr otherwise; threads that wait without
# working would count as CPU time.
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

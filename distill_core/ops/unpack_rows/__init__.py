"""Unpacking of stored supports on the device: raw kernels alone. The public way to them is ``engine.unpack``."""

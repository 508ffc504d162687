"""The trainer's speed, compared with plain Pyro, with bare PyTorch, and with the device's arithmetic.

`python -m benchmarks.run` measures, `python -m benchmarks.profile` shows where the time of one epoch goes.
"""

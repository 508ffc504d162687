"""How fast the trainer is: beside plain Pyro, beside bare PyTorch, and against the device's arithmetic.

`python -m benchmarks.run` measures, `python -m benchmarks.profile` shows where the time of one epoch goes.
"""

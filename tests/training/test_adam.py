"""Adam, against its equations."""

import numpy as np
import torch

from vae.training import adam


def test_updates_are_those_of_algorithm_1():
    random, rate, epsilon = np.random.default_rng(0), 0.01, 1e-4
    start = [random.normal(size=(3, 2)), random.normal(size=5)]
    parameters = [torch.tensor(values, dtype=torch.float32) for values in start]
    means, square_means = ([torch.zeros_like(parameter) for parameter in parameters] for _ in range(2))
    # Kingma & Ba 2015, algorithm 1, in float64.
    expected, m, v = [values.copy() for values in start], [0.0, 0.0], [0.0, 0.0]
    for t in range(1, 6):
        gradients = [random.normal(size=values.shape) for values in start]
        adam.update(
            parameters,
            [torch.tensor(gradient, dtype=torch.float32) for gradient in gradients],
            means,
            square_means,
            rate=torch.tensor(rate),
            updates=torch.tensor(float(t)),
            epsilon=epsilon,
        )
        for i, gradient in enumerate(gradients):
            m[i] = 0.9 * m[i] + 0.1 * gradient
            v[i] = 0.999 * v[i] + 0.001 * gradient**2
            expected[i] -= rate * (m[i] / (1 - 0.9**t)) / (np.sqrt(v[i] / (1 - 0.999**t)) + epsilon)
    # Five updates in float32, which keeps seven digits; a step is a hundredth of a parameter.
    for found, right in zip([*parameters, *means, *square_means], [*expected, *m, *v], strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-5, atol=1e-6)

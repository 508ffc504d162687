"""The priors, the posteriors and the likelihoods: modules that return Pyro distributions, no networks' details."""

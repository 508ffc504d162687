"""The Pyro model p(x, z) and its guide q(z | x), with their networks and distributions."""

from vae.model.saving import load, load_trained, make_model, save
from vae.model.vae import VAE

__all__ = ["VAE", "load", "load_trained", "make_model", "save"]

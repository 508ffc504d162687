"""How good a model is: its likelihood, its reconstructions, its latent space and its samples."""

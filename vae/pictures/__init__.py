"""Pictures of a trained VAE: one entry each, above a function from arrays to a matplotlib figure.

To add one, write an entry and a function in one of these files or a new one, a line below, and a test.
"""

from vae.pictures import embedding, latent_space, measures, reconstructions, samples, training, uncertainty
from vae.pictures.picture import Picture

# In the order of the report, section by section.
PICTURES: tuple[Picture, ...] = (
    training.elbo,
    reconstructions.reconstructions,
    reconstructions.reconstructions_extremes,
    reconstructions.reconstructions_by_epoch,
    measures.error_by_class,
    uncertainty.uncertainty,
    embedding.embedding,
    embedding.embedding_by_class,
    embedding.embedding_thumbnails,
    measures.kl_per_dimension,
    measures.confusion,
    latent_space.traversals,
    latent_space.interpolations,
    latent_space.manifold,
    samples.samples,
    samples.samples_by_class,
    samples.samples_neighbors,
)

"""A finished run on one page: metrics, pictures, settings and provenance."""

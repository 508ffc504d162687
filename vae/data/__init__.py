"""Data sources, checksums, splits and binarization, independent of any model."""

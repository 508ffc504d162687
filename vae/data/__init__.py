"""Images with their labels: splits, binarization and a model's input, independent of any model."""

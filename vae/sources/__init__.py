"""The data sets as published: mirrors, checksums, and how to read their files; independent of any model."""

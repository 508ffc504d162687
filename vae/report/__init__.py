"""One page on a finished run: its figures, pictures, settings and where they come from."""

"""File formats of transforms: one module per format, imported by whoever needs it."""

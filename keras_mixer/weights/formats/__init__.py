"""File formats of weights, each read and written without running anything."""

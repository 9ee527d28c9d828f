"""Export: a run directory becomes a versioned SavedModel that needs nothing of ours."""

"""Sound files: decoded, measured, cut; by their content, in processes that may die."""

"""One label space: scientific names read, resolved against taxonomies, and counted."""

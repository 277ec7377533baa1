"""Models out of the project and into it: export to Hugging Face, import from any known file."""

"""What the steps share: progress, files, recipes that come with the package."""

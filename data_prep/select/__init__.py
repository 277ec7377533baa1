"""Selection: what of the recording tables becomes the dataset, and which part each goes to."""

"""Selection: which recordings of the tables become the dataset, and in which part each lies."""

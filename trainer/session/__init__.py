"""Sessions: one start of a run, from claiming the folder to the note on how it ended."""

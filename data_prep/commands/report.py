"""`chorus data report` and `credits`."""

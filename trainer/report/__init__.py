"""`report.html`: one self-contained page about one or several runs, made from their files alone."""

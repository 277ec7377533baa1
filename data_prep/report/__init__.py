"""What people read about a dataset or a recording table: page, card, credits, citations."""

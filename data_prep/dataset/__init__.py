"""Recording table -> dataset: plan, shards, the tables beside them, and their verification."""

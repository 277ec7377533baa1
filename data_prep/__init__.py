"""From archives of recordings to shards: readers, decoding, planning, writing."""

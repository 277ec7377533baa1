"""Prepared datasets as an endless, exactly repeatable stream of int16 batches."""

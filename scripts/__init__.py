"""Things a person runs: the demonstration, the benchmarks, makers of fixtures."""

"""`chorus prep xeno-canto`, `gbif` and `animal-sound-archive`."""

"""What every encoder and every objective keeps; with a newcomer of each that lives only here."""

"""dawnchorus: from sound archives to a published bioacoustic encoder."""

__version__ = "0.1.0"

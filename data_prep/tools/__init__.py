"""What several steps use: a client for archives' APIs, and tables for spreadsheet programs."""

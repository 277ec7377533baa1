"""Sound files: decoding by content, measuring, cutting, in processes that a broken file may end."""

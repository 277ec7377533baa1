"""Readers of archives and folders: each yields recordings, and the reason why a row is not one."""

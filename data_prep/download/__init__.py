"""From `url` to files: polite, resumable, and with a ledger of what was fetched and what failed.

`download_recipe` limits per host · `choice` which rows · `addresses` URLs and file names ·
`ledger` what is known to be done · `fill_ledger` table -> ledger, estimates · `gate` when a host
may be asked · `partial_file` the file that grows · `sniff` is it audio · `fetch` one file over
HTTP · `crew` all of them · `run_download` the steps in order · `summary` what is printed.
"""

"""From `url` to files: polite, resumable, and with a ledger of what was fetched and what failed.

`recipe` limits per host · `choice` which rows · `addresses` URLs and file names · `ledger` what is
known to be done · `plan` table -> ledger, estimates · `gate` when a host may be asked · `part` the
file that grows · `sniff` is it audio · `fetch` one file over HTTP · `crew` all of them ·
`command` the steps in order · `summary` what is printed.
"""

"""`chorus prep …` and `chorus data …`. Heavy modules are imported only when a command runs."""

from __future__ import annotations

from dawnchorus.data_prep.commands import (  # noqa: F401 (each adds its commands to the apps)
    data_report,
    prep_audioset,
    prep_collections,
    prep_download,
    prep_folder,
    prep_inaturalist,
    prep_labels,
    prep_select,
    prep_shards,
    prep_xeno_canto,
)
from dawnchorus.data_prep.commands.apps import data_app, prep_app

app = prep_app

__all__ = ["app", "data_app", "prep_app"]

if __name__ == "__main__":
    app()

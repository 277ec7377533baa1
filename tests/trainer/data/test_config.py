from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from dawnchorus.trainer.data.config import DataConfig, SourceConfig


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"path": ""}, "path is empty"),
        ({"path": "x", "weight": 0.0}, "weight is .*above 0"),
        ({"path": "x", "splits": ()}, "splits is empty"),
        ({"path": "x", "folds": ("1", "2"), "exclude_folds": ("2",)}, r"\['2'\] are both"),
    ],
)
def test_a_source_says_what_is_wrong(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        SourceConfig(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"window_s": 0.0}, "window_s is .*3600"),
        ({"workers": -1}, "workers is .*at least 0"),
        ({"prefetch": 0}, "prefetch is .*at least 1"),
        ({"max_broken": 1.5}, r"max_broken is .*in \[0, 1\]"),
        (
            {"train": {"a": SourceConfig(path="a", weight=1), "b": SourceConfig(path="b")}},
            r"train: \['a'\] have a weight and \['b'\] have none",
        ),
    ],
)
def test_the_data_section_says_what_is_wrong(fields: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        DataConfig(**fields)  # type: ignore[arg-type]


def test_unknown_keys_are_refused_and_every_field_is_explained() -> None:
    adapter = TypeAdapter(DataConfig)
    with pytest.raises(ValidationError, match="wrokers"):
        adapter.validate_python({"wrokers": 3})
    schema = adapter.json_schema()
    for definition in (schema, schema["$defs"]["SourceConfig"]):
        for name, field in definition["properties"].items():
            assert len(field.get("description", "")) > 20, name

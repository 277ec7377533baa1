"""Recipes of all kinds are composed, checked, shown and described in one way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import TypeAdapter

from dawnchorus.trainer import plain_yaml
from dawnchorus.trainer.compose import load, recipes_folder, shipped_recipes
from dawnchorus.trainer.errors import RecipeError
from dawnchorus.trainer.kinds import CLUSTER, DOWNLOAD, EVALUATE, KINDS, SELECT, TRAIN, kind_of
from dawnchorus.trainer.recipe_files import read_mapping
from dawnchorus.trainer.recipe_schema import json_schema

SHIPPED = [(kind, name) for kind in KINDS.values() for name in shipped_recipes(kind)]
IDS = [kind.title(name) for kind, name in SHIPPED]
OWN = [  # (kind, a file of one's own, an override, where it goes, what it is then)
    (EVALUATE, "defaults: [fast]\nprobe: {seeds: 4}\n", "probe.epochs=7", ("probe", "epochs"), 7),
    (SELECT, "defaults: example\ncaps: {per_class: 9}\n", "caps.per_class=8",
     ("caps", "per_class"), 8),
    (DOWNLOAD, "default: {requests_per_s: 2}\n", "retry.attempts=3", ("retry", "attempts"), 3),
    (CLUSTER, "defaults: [large]\naccount: us\n", "time=1:00:00", ("time",), "1:00:00"),
    (TRAIN, "defaults: [sl_beats_tiny]\nseed: 3\n", "optim.lr=1e-4", ("optim", "lr"), 1e-4),
]  # fmt: skip


def plain(kind: Any, *given: Any) -> dict[str, Any]:
    loaded = load(kind, *given, placeholders=True)
    found: dict[str, Any] = TypeAdapter(kind.schema()).dump_python(loaded, mode="json")
    return found


@pytest.mark.parametrize(("kind", "text", "override", "keys", "value"), OWN, ids=lambda x: str(x))
def test_a_file_of_one_s_own_says_what_differs(
    tmp_path: Path, kind: Any, text: str, override: str, keys: tuple[str, ...], value: object
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    assert kind_of(str(file)) is kind
    found: Any = plain(kind, str(file), [override])
    for key in keys:
        found = found[key]
    assert found == value
    with pytest.raises(RecipeError, match="lrr: there is no such key") as told:
        load(kind, str(file), ["lrr=1"])
    assert f"in the {kind.noun} {str(file)!r}" in str(told.value)
    file.write_text(f"defaults: [{file.stem}]\n")
    with pytest.raises(RecipeError, match="starts from itself"):
        load(kind, str(file))


@pytest.mark.parametrize(("kind", "name"), SHIPPED, ids=IDS)
def test_what_is_shown_is_the_recipe_again(tmp_path: Path, kind: Any, name: str) -> None:
    shown = plain(kind, name)
    again = tmp_path / "again.yaml"
    again.write_text(plain_yaml.dump(shown | ({"name": name} if kind.named else {})))
    assert plain(kind, str(again)) == shown
    assert kind_of(str(again)) is kind
    assert kind_of(kind.title(name)) is kind


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_the_schema_explains_every_key_and_accepts_what_is_shipped(kind: Any) -> None:
    schema = json_schema(kind)
    for name, part in {"": schema, **schema.get("$defs", {})}.items():
        for key, field in part.get("properties", {}).items():
            of_its_class = schema.get("$defs", {}).get(field.get("$ref", "").rpartition("/")[2], {})
            explained = field.get("description") or of_its_class.get("description")
            assert explained, f"{name}.{key} is not explained"
    validator = jsonschema.Draft202012Validator(schema)
    for name in shipped_recipes(kind):
        file = recipes_folder() / kind.folder / f"{name}.yaml"
        assert not list(validator.iter_errors(read_mapping(file)[1])), name
        assert not list(validator.iter_errors(plain(kind, name))), name


def test_the_schema_completes_what_a_file_starts_from() -> None:
    names, choices = json_schema()["properties"]["defaults"]["items"]["anyOf"]
    assert {"sl_beats_tiny", "_self_"} <= set(names["anyOf"][0]["enum"])
    for key in ("encoder", "override encoder"):
        assert "beats_base" in choices["properties"][key]["anyOf"][0]["enum"]
    assert "noise_mixup" in choices["properties"]["augment"]["anyOf"][0]["enum"]


def test_bash_in_a_profile_is_no_reference(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("scratch: ${TMPDIR}/x\nsetup: ['export A=${B:-c} ${#D}', 'echo \\${E}']\n")
    (tmp_path / "above.yaml").write_text("defaults: [mine]\n")
    profile = load(CLUSTER, str(tmp_path / "above.yaml"))
    assert profile.scratch == "${TMPDIR}/x"
    assert profile.setup == ("export A=${B:-c} ${#D}", "echo \\${E}")


def test_a_kind_is_told_or_named(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    empty = tmp_path / "cluster" / "empty.yaml"
    empty.write_text("# nothing\n")
    assert kind_of(str(empty)) is CLUSTER
    assert kind_of(str(empty), "evaluate") is EVALUATE
    assert kind_of("sl_beats_tiny") is TRAIN
    with pytest.raises(RecipeError, match="did you mean 'cluster'"):
        kind_of("x", "clustre")

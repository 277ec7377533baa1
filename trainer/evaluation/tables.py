"""Tables of results: one evaluation, or several models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dawnchorus.trainer.errors import DataError
from dawnchorus.trainer.evaluation.comparison import Comparison, side_by_side
from dawnchorus.trainer.evaluation.results import (
    METRIC_NAMES,
    POOLING_NAMES,
    Figure,
    Result,
    figures_of,
    probe_title,
    protocol_of,
)

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def _cells(figures: Mapping[str, Figure], across: bool = False) -> list[str]:
    """Return the figures of a row as text, in the order of `_columns`."""
    keys = ["probe", "roc_auc", "roc_auc_groups", "p_at_1", *["roc_auc_across"] * across]
    keys += ["nmi", "ari"]
    cells = [figures[key].text if key in figures else "–" for key in keys]
    for key in ("probe", "nmi"):
        if key in figures:
            cells[keys.index(key)] += f" ± {figures[key].std or 0.0:.3f}"
    return cells


def _is_across(result: Mapping[str, Any]) -> bool:
    """Whether retrieval from the tested clips to the training part was measured as well."""
    return any("across" in (row.get("retrieval") or {}) for row in result["rows"])


def _columns(result: Mapping[str, Any]) -> list[str]:
    return [
        f"{probe_title(result).lower()}\n{METRIC_NAMES[result['metric']]}",
        "retrieval\nROC-AUC",
        "other\ngroups",
        "P@1",
        *["across\nsets"] * _is_across(result),
        "clustering\nNMI",
        "ARI",
    ]


def _table(title: str, first: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=escape(title), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)
    )
    for i, name in enumerate(first):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def facts(result: Mapping[str, Any]) -> str:
    """Say what was measured, one fact a line."""
    division = {
        "folds": f"{len(result['folds'])} of the dataset's folds",
        "splits": "the dataset's splits",
        "groups": f"{len(result['folds'])} folds of whole groups",
    }[result["protocol"]["kind"]]
    lines = [
        f"{result['clips']} clips, {_counted(result['classes'], 'class', 'classes')}, "
        f"{_counted(result['groups'], 'group', 'groups')}; "
        f"{division}; {_fits(result['seeds'])}"
    ]
    lines += noise(result) + _neighbours(result)
    if any("same_group_excluded" in (r.get("retrieval") or {}) for r in result["rows"]):
        lines.append("other groups: ROC-AUC without the clips of the query's own group")
    if _is_across(result):
        lines.append("across sets: ROC-AUC of the training part, ranked for each tested clip")
    pooling = result["protocol"].get("pooling")
    if pooling:
        lines.append(f"embeddings of every row: {POOLING_NAMES[pooling]} over time")
    head = result["rows"][-1].get("head")
    if head:
        lines.append(
            f"the model's own head, no probe: {METRIC_NAMES[head['metric']]} {head['value']:.3f} "
            f"({head['classes']} shared classes, {head['n']} clips)"
        )
    negatives = (result.get("task") or {}).get("unlabelled_clips")
    if negatives:
        lines.append(f"negatives: {negatives} clips without a label")
    left_out = result["data"]["left_out"]
    if left_out["unlabelled"]:
        lines.append(f"left out: {left_out['unlabelled']} clips without a label")
    if left_out["classes"]:
        lines.append(
            f"left out: {len(left_out['classes'])} classes with too few groups "
            f"({left_out['clips_of_dropped_classes']} clips)"
        )
    return "\n".join(lines)


def noise(result: Mapping[str, Any]) -> list[str]:
    """Say how far two seeds of the probe are apart on the same features: smaller differences
    between rows say nothing. No line for a probe without seeds.
    """
    told = [
        f"{row['name']} {row['probe']['noise_floor']:.3f}"
        for row in result["rows"]
        if (row.get("probe") or {}).get("noise_floor") is not None
    ]
    if not told:
        return []
    meaning = "two seeds of the probe on the same features differ by"
    return [f"noise floor ({meaning}): {', '.join(told)}"]


def _neighbours(result: Mapping[str, Any]) -> list[str]:
    """Tell the figures of the nearest neighbours, which the table has no room for."""
    found = [(row["name"], row["knn"]) for row in result["rows"] if row.get("knn")]
    told = [
        f"{name} {value:.3f}"
        for name, knn in found
        if (value := knn["same_group_excluded"]["value"]) is not None
    ]
    if not told:
        return []
    knn = found[0][1]
    what = f"{METRIC_NAMES[knn['metric']]} by the {knn['neighbours']} nearest clips"
    return [f"kNN ({what} of other groups, embeddings less their mean): {', '.join(told)}"]


def _title(row: Mapping[str, Any]) -> str:
    return f"{row['name']}, layer {row['layer']}" if isinstance(row["layer"], int) else row["name"]


def result_table(result: Mapping[str, Any]) -> Table:
    """Tabulate one evaluation: its rows, then a row per layer where all layers were measured."""
    across = _is_across(result)
    rows = [[_title(r), *_cells(figures_of(r), across)] for r in result["rows"]]
    for layer in result.get("layers") or []:
        rows.append([f"  layer {layer['layer']}", *_cells(figures_of(layer), across)])
    for name, mix in (result.get("layer_mix") or {}).items():
        title = "  learned mix" if name == "model" else "  mix, random"
        rows.append([title, f"{mix['mean']:.3f} ± {mix['std']:.3f}", *["–"] * (5 + across)])
    return _table(result["dataset"], ["", *_columns(result)], rows)


def print_result(result: Mapping[str, Any], console: Console) -> None:
    """Print the table, what was measured, and the warnings."""
    console.print(result_table(result))
    console.print(facts(result), highlight=False, markup=False)
    step = result["model"].get("step")
    if step is not None:
        console.print(f"the model: step {step:,}", highlight=False, markup=False)
    if wins := compared({"model": result}).wins:
        console.print(wins, highlight=False, markup=False)
    for note in result["notes"]:
        console.print(f"Note: {note}", highlight=False, markup=False)
    for warning in result["warnings"]:
        console.print(f"Warning: {warning}", style="bold", highlight=False, markup=False)


def _fits(seeds: int) -> str:
    return f"{seeds} probe seeds (± over seeds)" if seeds > 1 else "one fit of the probe"


def _said(result: Mapping[str, Any], key: str) -> Any:
    return protocol_of(result) if key == "protocol" else result.get(key)


def compared(results: Mapping[str, Mapping[str, Any]]) -> Comparison:
    """Return evaluations side by side: each baseline once, then each model under the given name.

    Args:
        results: model name ("pre-trained") -> what `evaluate` returned.

    Raises:
        DataError: the results have different data, splits or probes, so they cannot be compared.
    """
    if not results:
        raise DataError("there is no evaluation result to compare")
    first_name, first = next(iter(results.items()))
    for name, result in results.items():
        keys = ("format", "dataset", "metric", "clips", "protocol")
        different = [key for key in keys if _said(result, key) != _said(first, key)]
        if result["data"]["digest"] != first["data"]["digest"]:
            different.append("data")
        if different:
            raise DataError(
                f"the evaluations of {first_name!r} and {name!r} cannot be compared: they differ "
                f"in {', '.join(different)}. Evaluate both with the same data and options"
            )
    return side_by_side((name, "", Result.of(result)) for name, result in results.items())[0]


def comparison_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """Tabulate `compared`: log-mel, random-init, then the models in the given order."""
    found = compared(results)
    first = next(iter(results.values()))
    across = _is_across(first)
    rows = [
        [f"{row.title} ({row.detail})" if row.detail else row.title, *_cells(row.figures, across)]
        for row in found.rows
    ]
    return _table(found.dataset, ["", *_columns(first)], rows)

"""Validation on the same clips and windows every time, with exact figures over all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from dawnchorus.trainer.training.host_copy import HostCopy

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.utils.data import DataLoader

    from dawnchorus.trainer.objectives.base import Scorer
    from dawnchorus.trainer.training.module import TrainingModule

_ASK_EVERY = 8


class Validation:
    """Runs the validation set through a module. Every rank takes its share of the clips.

    Args:
        loader: batches of this rank. Rows of length 0 fill it up, so that all ranks have the same
            number of batches.
        best: the figure that chooses the best checkpoint, and "max" or "min".
    """

    def __init__(self, loader: DataLoader[Any], *, best: tuple[str, str]) -> None:
        self.loader = loader
        self.metric, self.direction = best

    def score(self, figures: dict[str, float]) -> tuple[float | None, int]:
        """Return the figure that chooses the best checkpoint, and +1 if more is better, else -1.

        The figure is None if it is missing or NaN.
        """
        value = figures.get(self.metric)
        finite = value is not None and value == value
        return (value if finite else None), (1 if self.direction == "max" else -1)

    @torch.no_grad()
    def run(
        self,
        module: TrainingModule,
        *,
        beat: Callable[[str], None] = lambda what: None,
        stop: Callable[[], bool] | None = None,
    ) -> dict[str, float] | None:
        """Validate the moving average of the weights, or the weights if there is no average.

        Args:
            module: the module to validate.
            beat: called at every batch with a text that says where validation is.
            stop: returns whether this rank was asked to stop. All ranks compare their answers every
                few batches, and stop together.

        Returns:
            The figures over all ranks; None if validation was stopped.
        """
        was_training = module.training
        module.eval()
        try:
            with module.averaged():
                return self._figures(module, beat, stop)
        finally:
            module.train(was_training)

    def _figures(
        self,
        module: TrainingModule,
        beat: Callable[[str], None],
        stop: Callable[[], bool] | None,
    ) -> dict[str, float] | None:
        sums: dict[str, torch.Tensor] = {}
        scorer = module.objective.scorer(module.model)
        asked: HostCopy | None = None
        for index, batch in enumerate(self.loader):
            beat(f"validation batch {index}")
            # Every rank has the same number of batches, so all ranks ask at the same time.
            if stop is not None and index % _ASK_EVERY == 0:
                asked, before = _ask(stop(), module), asked
                # On a GPU the answer of some batches ago is read: it has arrived, so nothing waits.
                if (before if before and asked.waits else asked).read()[0]:
                    return None
            self._add(module, batch, sums, scorer)
        return self._reduced(module, sums, scorer)

    def _add(
        self,
        module: TrainingModule,
        batch: dict[str, Any],
        sums: dict[str, torch.Tensor],
        scorer: Scorer | None,
    ) -> None:
        """Add the figures of a batch without waiting for the device."""
        batch = {
            k: v.to(module.device, non_blocking=True) if torch.is_tensor(v) else v
            for k, v in batch.items()
        }
        with module.trainer.precision_plugin.forward_context():
            # Rows that only fill up stay in the batch and are marked. So every batch has the same
            # shape, and a rank without clips still takes part where parameters are sharded.
            features = module.features(batch, augment=False)
            output = module._objective_step(features)
            if scorer is not None:
                scorer.update(output, features)
        for name, (total, count) in output.logs.items():
            pair = torch.stack([total.double(), count.double()])
            sums[name] = sums.get(name, torch.zeros_like(pair)) + pair

    def _reduced(
        self, module: TrainingModule, sums: dict[str, torch.Tensor], scorer: Scorer | None
    ) -> dict[str, float]:
        names = sorted(sums)
        table = torch.stack([sums[n] for n in names])
        if module.topology.ranks > 1:
            dist.all_reduce(table)
        figures = {
            name: total / count if count else float("nan")
            for name, (total, count) in zip(names, table.tolist(), strict=True)
        }
        if scorer is not None:
            scorer.sync()
            figures = scorer.finish(figures)
        return figures


def _ask(asked: bool, module: TrainingModule) -> HostCopy:
    """Start copying to the host whether any rank was asked to stop (a number above 0)."""
    flag = torch.full((1,), float(asked), device=module.device)
    if module.topology.ranks > 1:
        dist.all_reduce(flag)
    return HostCopy(flag)

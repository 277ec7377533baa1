"""Earlier encoders that an objective listens to and that nobody trains: teachers, tokenizers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dawnchorus.trainer.errors import RecipeError

if TYPE_CHECKING:
    from dawnchorus.trainer.encoders.base import Encoder
    from dawnchorus.trainer.objectives.base import Context


def load_frozen(context: Context, path: str, key: str, encoder: Encoder) -> Encoder:
    """Read an encoder that hears what another one hears and has its tokens in the same places.

    Args:
        context: what the objective is built with.
        path: a run, a checkpoint or an export.
        key: of the recipe, for messages.
        encoder: the one that is trained.

    Returns:
        The encoder in eval mode; no parameter of it wants a gradient.

    Raises:
        RecipeError: the numbers of the two front ends differ, or the tokens stand elsewhere.
        CheckpointError: it cannot be read.
    """
    assert context.load_encoder is not None
    frozen = context.load_encoder(path)
    same_hearing(frozen, encoder, f"{key}={path}")
    return frozen.eval().requires_grad_(False)


def same_hearing(frozen: Encoder, encoder: Encoder, where: str) -> None:
    """Make sure that two encoders hear the same and have their tokens in the same places.

    Raises:
        RecipeError: they do not; `where` is the key and the value that name the first one.
    """
    there, here = (
        {name: getattr(one.config, name) for name in one.config.frontend_fields}
        for one in (frozen, encoder)
    )
    different = [
        f"{name} is {there.get(name)!r} there and {here.get(name)!r} in encoder.{name}"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    ]
    second = int(encoder.config.sample_rate_hz)
    if not different and frozen.grid(second) != encoder.grid(second):
        different = [f"{frozen.grid(second)} there, {encoder.grid(second)} here"]
    if different:
        raise RecipeError(
            f"{where}: its encoder hears something else than encoder={encoder.config.name} or "
            f"has its tokens elsewhere ({'; '.join(different)}): take one with the same front end "
            "and the same tokens"
        )

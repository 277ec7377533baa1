"""The recipe of a chain: ordered steps. Each is a job that starts when the one before is done.

    steps:
      - name: pre
        train: ssl_beats_base
      - name: post
        train: sl_beats_all
        takes: {init_from: pre}          # the run folder of the step `pre`
      - name: esc50
        evaluate: /data/esc50
      - name: publish
        export: my_model
        overrides: ["author=Jane Doe"]

On the command line the four usual steps have a short form: see `read_chain`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from dawnchorus.slurm.errors import SubmitError
from dawnchorus.trainer.compose import load
from dawnchorus.trainer.kinds import CHAIN
from dawnchorus.trainer.names import check_name

RESOURCES = frozenset({
    "partition", "cpu_partition", "account", "qos", "constraint", "nodes", "tasks_per_node",
    "gpus_per_node", "gpu_type", "cpus_per_task", "memory_gb", "time", "signal_s", "stuck_s",
    "max_requeues",
})  # fmt: skip
"""Keys of a cluster profile that a chain may set. The others hold bash, paths of programs and
options of SLURM that run some: a profile is yours, a chain may be a stranger's."""
STAGES = ("pretrain", "posttrain", "evaluate", "export")
"""Steps of the short form."""
Name = Annotated[str, AfterValidator(check_name)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Step(_Strict):
    """One job. It does exactly one of three things: `train`, `evaluate`, `export`."""

    name: Name
    """Name of the step, by which later steps and overrides on the command line refer to it."""
    train: str | None = None
    """A training recipe, by its name or path."""
    evaluate: str | None = None
    """A dataset folder to evaluate on."""
    export: str | None = None
    """The folder to write the model to. If empty, it is `export` in the run folder."""
    takes: dict[str, Name] = {}
    """With `train`: keys of the recipe that are set to the run folder of an earlier training step,
    for example `init_from: pre`. The other keys of the recipe stay as they are."""
    of: Name | None = None
    """With `evaluate` and `export`: the training step whose run is used. Null: the last training
    step before this one."""
    preset: str = "default"
    """With `evaluate`: a recipe of `recipes/evaluate`, or the path of a file."""
    overrides: tuple[str, ...] = ()
    """Overrides `KEY=VALUE` for the training recipe, the evaluation or the model card."""
    cluster: tuple[str, ...] = ()
    """Overrides `KEY=VALUE` of the cluster profile, for this step alone: resources and limits. What
    a job runs (`setup`, `venv`, `environment`, ...) is the profile's or the command line's."""

    @model_validator(mode="after")
    def _does_one_thing(self) -> Step:
        done = [key for key in ("train", "evaluate", "export") if getattr(self, key) is not None]
        if len(done) != 1:
            raise ValueError(
                f"the step {self.name!r} must have one of train, evaluate and export "
                f"(it has {' and '.join(done) or 'none'})"
            )
        if self.train == "" or self.evaluate == "":
            raise ValueError(
                f"the step {self.name!r}: which {'recipe' if self.train == '' else 'dataset'}?"
            )
        if self.takes and self.train is None:
            raise ValueError(f"the step {self.name!r} takes weights but trains nothing: write `of`")
        for word in self.cluster:
            if word.partition("=")[0].strip("+~") not in RESOURCES:
                raise ValueError(
                    f"the step {self.name!r}: cluster: {word!r}: a chain sets resources only "
                    f"({', '.join(sorted(RESOURCES))}); write the rest in your cluster profile, "
                    "or on the command line (cluster.KEY=VALUE)"
                )
        if self.of is not None and self.train is not None:
            raise ValueError(f"the step {self.name!r} trains: write `takes`, not `of`")
        return self


class Chain(_Strict):
    """Jobs that follow one another. If one fails or is cancelled, those after it never start."""

    name: Name | None = None
    """Prefix of the runs' names: a run is called `NAME-STEP` unless its step has `name=...` in its
    overrides. Default: the name of the file."""
    steps: tuple[Step, ...] = Field(min_length=1)
    """The steps, in their order."""

    @model_validator(mode="after")
    def _refers_to_what_is_before(self) -> Chain:
        problems: list[str] = []
        before: set[str] = set()
        trained: list[str] = []
        for step in self.steps:
            if step.name in before:
                problems.append(f"steps: two are called {step.name!r}")
            for key, source in [*step.takes.items(), *([("of", step.of)] if step.of else [])]:
                if source not in trained:
                    known = f"there are: {', '.join(trained)}" if trained else "there is none"
                    problems.append(
                        f"steps: {step.name!r} names {source!r} for {key}, which is no training "
                        f"step before it; {known}"
                    )
            if step.train is None and not trained:
                problems.append(f"steps: {step.name!r} comes before every training step")
            before.add(step.name)
            trained += [step.name] if step.train is not None else []
        if problems:
            raise ValueError("\n".join(problems))
        return self


def read_chain(words: Sequence[str]) -> tuple[Chain, dict[str, list[str]], list[str]]:
    """Read a command line in one of two forms.

    Long: the path of a chain's file, then overrides. Short: `pretrain=RECIPE posttrain=RECIPE
    evaluate=DATASET export=FOLDER`, any of them, in this order; post-training starts from the
    pre-trained weights. In both forms `STEP.optim.lr=1e-4` overrides that step alone.

    Returns:
        The chain, the overrides of each step by its name, and the overrides of all steps.

    Raises:
        SubmitError, RecipeError: the command line has neither form.
    """
    if words and ("=" not in words[0] or Path(words[0]).is_file()) and words[0] not in STAGES:
        chain: Chain = load(CHAIN, words[0])
        words = words[1:]
    else:
        chain = _short(words)
        words = [word for word in words if word.partition("=")[0] not in STAGES]
    own: dict[str, list[str]] = {step.name: list(step.overrides) for step in chain.steps}
    common = []
    for word in words:
        name, dot, _ = word.partition("=")[0].partition(".")
        if dot and name in own:
            own[name].append(word.partition(".")[2])
        else:
            common.append(word)
    return chain, own, common


def _short(words: Sequence[str]) -> Chain:
    """The chain of the usual four stages."""
    given = {key: value for key, _, value in (w.partition("=") for w in words) if key in STAGES}
    trains = [stage for stage in STAGES[:2] if stage in given]
    if not trains:
        raise SubmitError(
            "a chain has a training step: --chain pretrain=RECIPE posttrain=RECIPE "
            "evaluate=DATASET export=FOLDER (any of them), or --chain CHAIN.yaml"
        )
    for stage in STAGES[:3]:
        if given.get(stage) == "":
            what = "which dataset" if stage == "evaluate" else "which recipe"
            raise SubmitError(f"{what}? Write {stage}=...")
    steps = []
    for stage in (stage for stage in STAGES if stage in given):
        done = {"train" if stage in trains else stage: given[stage]}
        takes = {"init_from": trains[0]} if stage == "posttrain" and len(trains) == 2 else {}
        steps.append(Step(name=stage, takes=takes, **done))
    return Chain(steps=tuple(steps))

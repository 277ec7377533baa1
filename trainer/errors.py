"""The exception tree. Every message says what is wrong, where, and how to mend it."""


class ChorusError(Exception):
    """A mistake that the user can mend; the command line prints the message without a trace."""

    exit_code = 1


class RecipeError(ChorusError):
    """The recipe is wrong; nothing was started."""

    exit_code = 2


class DataError(ChorusError):
    """A dataset is missing, damaged or does not fit the recipe."""

    exit_code = 2


class CheckpointError(ChorusError):
    """A checkpoint is missing, damaged, or of another architecture or front end."""

    exit_code = 2


class InstallError(ChorusError):
    """Installed packages do not work together; nothing was started."""

    exit_code = 2


class Preempted(ChorusError):
    """The run was asked to stop, saved its state, and can be continued by the same command."""

    exit_code = 75


class Interrupted(Preempted):
    """Somebody pressed Ctrl-C: the run has saved its state, but it is not queued again."""


class NonFiniteLoss(ChorusError):
    """Several steps in a row had a non-finite loss or gradient."""

    exit_code = 76


class RunBusy(ChorusError):
    """Another job works in this run folder."""

    exit_code = 2


class RankMismatch(ChorusError):
    """Processes of two runs met on one port, or see different files. A job is queued again and
    gets another port.
    """


class Hung(ChorusError):
    """No step was finished for too long; the job may continue from the last checkpoint."""

    exit_code = 77


class NoProgress(ChorusError):
    """Several restarts in a row began at the same step: starting again will not help."""

    exit_code = 78

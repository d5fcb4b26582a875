"""Errors a user can act on: each message names the value, the limit and the next step."""

EXIT_DEFECT = 1
EXIT_BAD_INPUT = 2
EXIT_BUDGET_NOT_MET = 3
EXIT_INTERRUPTED = 130


class PrunetimeError(Exception):
    """Base of every error that prunetime raises on purpose; `exit_code` is what the command line returns."""

    exit_code = EXIT_BAD_INPUT


class InputError(PrunetimeError, ValueError):
    """A value the user gave (option, file, column, label, model folder) cannot be used."""


class ArtifactError(InputError):
    """An artifact is truncated, tampered with, of a newer format, or not an artifact."""


class ProfileError(InputError):
    """A latency profile belongs to another machine, engine build, model or setting."""


class EngineError(PrunetimeError, ValueError):
    """The engine refused weights or a batch, or a non-finite number came out of it."""


class BudgetError(PrunetimeError):
    """No model inside the budget was found; names the measured latency and the budget."""

    exit_code = EXIT_BUDGET_NOT_MET


class DefectError(PrunetimeError):
    """A check that prunetime makes of its own work failed: the input is not at fault."""

    exit_code = EXIT_DEFECT


def first_line(error: Exception) -> str:
    """The first line of what an error says, or the name of its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]

"""Everything qllava raises on purpose. A message says what is wrong, the value, and the fix, in one line."""


class QllavaError(Exception):
    """Base of all expected errors; the command line prints its text without a traceback.

    `exit_code` is what the process returns: 2 for a wrong command line or recipe, 1 for the rest.
    """

    exit_code = 1


class UsageError(QllavaError):
    """A flag, argument or setting that cannot work as given."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe that is unknown, malformed or contradicts itself."""


class DataError(QllavaError):
    """Training or source data that is missing, unreadable or not in the expected schema."""


class ModelError(QllavaError):
    """A model that is missing, unsupported, or fails an audit after load."""


class DeviceError(QllavaError):
    """A device that is present but unusable, or too small."""


class RunError(QllavaError):
    """A run folder or checkpoint that is missing, unfinished, damaged or does not match."""


class TeacherError(QllavaError):
    """A teacher model that cannot be reached or used."""

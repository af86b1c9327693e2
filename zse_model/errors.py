"""The error that a user can fix."""


class ZseError(ValueError):
    """A mistake in what the user gave: a setting, a file, a data set, a service that cannot be reached.

    The message names the thing, its value, what is allowed and what to do next. The command line prints it without a
    traceback. Every other exception is a defect of this project, and keeps its traceback.
    """

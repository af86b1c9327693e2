"""Turn errors that a user can fix into one line. All other errors are defects and keep their traceback.

The command line calls `to_fix`.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator

from pipelines.runtime.errors import PreflightError
from zse_model.errors import ZseError

HINTS = {
    errno.ENOENT: "does not exist",
    errno.EISDIR: "is a folder, expected a file",
    errno.ENOTDIR: "cannot exist: a part of its path is a file, not a folder. Give another path",
    errno.EEXIST: "already exists",
    errno.EACCES: "may not be read or written by this user. Change its permissions, or give another path",
    errno.EPERM: "may not be read or written by this user. Change its permissions, or give another path",
    errno.EROFS: "cannot be written: the file system is read-only. Give another path",
    errno.ENAMETOOLONG: "has a name that is too long for the file system. Give a shorter one",
    errno.ENOSPC: "cannot be written: no space left on device. Free some and run the same command again",
    errno.EDQUOT: "cannot be written: the disk quota is used up. Free some and run the same command again",
    errno.EMFILE: "cannot be opened: this process has too many open files. Raise the limit, such as ulimit -n 65536",
    errno.ENFILE: "cannot be opened: the machine has too many open files",
}
NAMELESS = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)  # may be raised without a file name


def to_fix(error: BaseException) -> str | None:
    """One line for an error that the user can fix, with a further line for each of several mistakes; None for a
    defect."""
    error = unwrapped(error)
    if isinstance(error, PreflightError):
        return str(error)
    if isinstance(error, ZseError):
        return _line(str(error))
    if isinstance(error, OSError):
        return _file(error)
    return _resources(error)


def unwrapped(error: BaseException) -> BaseException:
    """The error of a task, actor or training worker, without the errors that Ray wraps around it."""
    while (inside := next(_inside(error), None)) is not None:
        error = inside
    return error


def _inside(error: BaseException) -> Iterator[BaseException]:
    if "ray" not in sys.modules:
        return
    from ray.exceptions import RayTaskError

    if isinstance(error, RayTaskError):  # Ray also derives a class from the cause: a ZseError with Ray's text
        yield error.cause
    of_workers = [one for _, one in sorted(getattr(error, "worker_failures", {}).items())]
    yield from sorted(of_workers, key=lambda one: to_fix(one) is None)  # the others only lost their connection
    for name in ("_base_exc", "controller_failure", "health_check_failure"):
        if type(error).__module__.startswith("ray.") and isinstance(one := getattr(error, name, None), BaseException):
            yield one


def _file(error: OSError) -> str | None:
    name = error.filename if isinstance(error.filename, str | bytes | os.PathLike) else None
    if name is None and isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError | PermissionError):
        told = [part for part in error.args if isinstance(part, str)]  # stores raise it with the path alone
        code = {FileNotFoundError: errno.ENOENT, IsADirectoryError: errno.EISDIR, NotADirectoryError: errno.ENOTDIR}
        return _line(f"{told[-1]} {HINTS[code.get(type(error), errno.EACCES)]}") if told else None
    if name is None and error.errno not in NAMELESS:
        return None
    hint = HINTS.get(error.errno or 0, f"cannot be used: {error.strerror or type(error).__name__}")
    return _line(f"{'A file' if name is None else os.fsdecode(name)} {hint}")


def _resources(error: BaseException) -> str | None:
    """One line for exhausted memory or a failed cluster, which are not ZseErrors; None for other errors."""
    if "ray" in sys.modules:
        from ray.exceptions import OutOfMemoryError, RayActorError, RayError, WorkerCrashedError

        said = str(error).strip().splitlines()[:1]
        if isinstance(error, OutOfMemoryError):
            return f"A task ran out of memory: {_line(*said)} Use fewer workers, smaller batches or more memory"
        if isinstance(error, RayActorError | WorkerCrashedError):
            return (
                f"A process of the cluster ended: {_line(*said)} It may have run out of memory. Finished work is kept: "
                "run the same command again to continue. zse doctor checks the nodes"
            )
        if isinstance(error, RayError) and said:
            return f"The cluster failed: {_line(*said)} Finished work is kept: run the same command again to continue"
    if "torch" in sys.modules and isinstance(error, sys.modules["torch"].OutOfMemoryError):
        return (
            "The GPU ran out of memory. Lower train.batch_size (and raise train.accumulate), "
            f"evaluation.batch_size or transforms.size. {_line(str(error).partition('. ')[0])}"
        )
    return None


def _line(text: str = "") -> str:
    return " ".join(text.split("\n"))

"""Which errors are said in one line, and how: those that the user can mend. All others are defects."""

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
    errno.ENOTDIR: "cannot be: a part of its path is a file, not a folder",
    errno.EEXIST: "exists already",
    errno.EACCES: "may not be read or written by this user. Change its permissions, or give another path",
    errno.EPERM: "may not be read or written by this user. Change its permissions, or give another path",
    errno.EROFS: "cannot be written: the file system is read-only. Give another path",
    errno.ENAMETOOLONG: "is too long a name for the file system",
    errno.ENOSPC: "cannot be written: no space left on device. Free some and run the same command again",
    errno.EDQUOT: "cannot be written: the disk quota is used up. Free some and run the same command again",
    errno.EMFILE: "cannot be opened: this process has too many open files. Raise the limit, such as ulimit -n 65536",
    errno.ENFILE: "cannot be opened: the machine has too many open files",
}
NAMELESS = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)  # the system says these without a file, too


def to_mend(error: BaseException) -> str | None:
    """One line that says what the user can mend, of several mistakes a line more for each; None for a defect."""
    error = unwrapped(error)
    if isinstance(error, PreflightError):
        return str(error)
    if isinstance(error, ZseError):
        return _line(str(error))
    if isinstance(error, OSError):
        return _file(error)
    return _resources(error)


def unwrapped(error: BaseException) -> BaseException:
    """What a task, an actor or a worker of a training raised, out of what Ray puts around it."""
    while (inside := next(_inside(error), None)) is not None:
        error = inside
    return error


def _inside(error: BaseException) -> Iterator[BaseException]:
    if "ray" not in sys.modules:
        return
    from ray.exceptions import RayTaskError

    if isinstance(error, RayTaskError):  # also what Ray makes of it, which is a ZseError with Ray's text
        yield error.cause
    of_workers = [one for _, one in sorted(getattr(error, "worker_failures", {}).items())]
    yield from sorted(of_workers, key=lambda one: to_mend(one) is None)  # the others lost their connection to that one
    for name in ("_base_exc", "controller_failure", "health_check_failure"):
        if type(error).__module__.startswith("ray.") and isinstance(one := getattr(error, name, None), BaseException):
            yield one


def _file(error: OSError) -> str | None:
    name = error.filename if isinstance(error.filename, str | bytes | os.PathLike) else None
    if name is None and isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError | PermissionError):
        told = [part for part in error.args if isinstance(part, str)]  # as the stores raise it: with the path alone
        code = {FileNotFoundError: errno.ENOENT, IsADirectoryError: errno.EISDIR, NotADirectoryError: errno.ENOTDIR}
        return _line(f"{told[-1]} {HINTS[code.get(type(error), errno.EACCES)]}") if told else None
    if name is None and error.errno not in NAMELESS:
        return None
    hint = HINTS.get(error.errno or 0, f"cannot be used: {error.strerror or type(error).__name__}")
    return _line(f"{'A file' if name is None else os.fsdecode(name)} {hint}")


def _resources(error: BaseException) -> str | None:
    """What ran out, where that has no error of ours."""
    if "ray" in sys.modules:
        from ray.exceptions import OutOfMemoryError, RayActorError, RayError, WorkerCrashedError

        said = str(error).strip().splitlines()[:1]
        if isinstance(error, OutOfMemoryError):
            return f"A task ran out of memory: {_line(*said)} Use fewer workers or smaller batches, or more memory"
        if isinstance(error, RayActorError | WorkerCrashedError):
            return (
                f"A process of the cluster ended: {_line(*said)} It may have run out of memory. Finished work is kept: "
                "run the same command again; zse doctor looks at the nodes"
            )
        if isinstance(error, RayError) and said:
            return f"The cluster failed: {_line(*said)} Finished work is kept: run the same command again"
    if "torch" in sys.modules and isinstance(error, sys.modules["torch"].OutOfMemoryError):
        return (
            "The GPU ran out of memory. Set a smaller train.batch_size (train.accumulate makes up for it), "
            f"evaluation.batch_size or transforms.size. {_line(str(error).partition('. ')[0])}"
        )
    return None


def _line(text: str = "") -> str:
    return " ".join(text.split("\n"))

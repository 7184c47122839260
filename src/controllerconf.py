"""Flow 1, hop 3: a view of the cluster -> the text of controller.conf -> parsed back -> the file, replaced.

The format belongs to its reader, dbaccessor.conf. What was rendered must come back from there as the very
value that was meant, and must be a permitted successor of what stands on the disk; otherwise the old file
stays as it is.
"""

from __future__ import annotations

import functools
import os
import secrets
from pathlib import Path

import jinja2
import yaml

from dbaccessor import conf

_TEMPLATES = Path(__file__).parent / "templates"


class NotRendered(Exception):
    """The file stays as it was. The message is one sentence that says why."""


@functools.cache
def environment() -> jinja2.Environment:
    """Return the environment of the charm's templates. A value that is missing is an error."""
    templates = jinja2.Environment(  # The files are YAML, INI and shell, not HTML.
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    templates.filters["quoted"] = _quoted
    return templates


def render(view: conf.ControllerConf) -> str:
    """Return the text for `view`. Raises NotRendered when its reader would not read exactly `view`."""
    extra = yaml.safe_dump(view.extra, sort_keys=True) if view.extra else ""
    text = environment().get_template("controller.conf.j2").render(conf=view, extra=extra)
    try:
        seen = conf.parse(text)
    except conf.BadConf as error:
        raise NotRendered(f"the rendered {conf.FILE_NAME} is not valid: {error}") from error
    if seen != view:
        raise NotRendered(f"the rendered {conf.FILE_NAME} does not say what was meant")
    return text


def read(state_dir: Path) -> conf.ControllerConf | None:
    """Return what stands on the disk; None when there is no file or its content is torn or garbage."""
    try:
        return conf.parse((state_dir / conf.FILE_NAME).read_text())
    except (FileNotFoundError, UnicodeDecodeError, conf.BadConf):
        return None


def write(view: conf.ControllerConf, state_dir: Path) -> bool:
    """Make the file say `view`. Return whether it changed. Raises NotRendered, and then it did not."""
    text = render(view)
    if problem := conf.successor_problem(read(state_dir), view):
        raise NotRendered(problem)
    return replace(state_dir / conf.FILE_NAME, text, mode=0o600)


def holds(path: Path, text: str, *, mode: int) -> bool:
    """Whether `replace` with the same arguments would change nothing."""
    try:
        return path.read_bytes() == text.encode() and path.stat().st_mode & 0o777 == mode
    except FileNotFoundError:
        return False


def replace(path: Path, text: str, *, mode: int) -> bool:
    """Make `path` hold `text`, durably and in one step: a reader sees the old content or the new, whole.

    Return whether anything changed. Raises OSError, and then the old file is untouched.
    """
    if holds(path, text, mode=mode):
        return False
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode())
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)
    return True


def _quoted(text: str) -> str:
    """Return `text` as a YAML string: never a number, a boolean or a null, whatever it looks like."""
    return yaml.safe_dump(text, default_style='"', width=1 << 20).rstrip("\n")


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

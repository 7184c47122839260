"""`hactl backup` and `hactl restore`: every database in one checked file, and back again."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from controller import asking, statusview
from controller.asking import Format, FormatOption
from dbaccessor import archive, confsocket
from dbaccessor.archive import BadArchive, Manifest

# For one part: the leader may have to be found, and it prepares a whole database at once.
_PART_SECONDS = 150.0

# What recover says, too: the data that goes on may be older than what runs in a cloud.
UNKNOWN_INSTANCES = (
    "machines that were made after this data: their instances are stopped ten minutes after the start; "
    "hactl controller-config local-provider= keeps them running, and hactl engine names them meanwhile"
)


def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The archive to write, or with --check to read.", dir_okay=False)],
    check: Annotated[bool, typer.Option("--check", help="Only check an archive; needs no controllerd.")] = False,
    namespace: Annotated[
        list[str] | None, typer.Option(help="Only this database; may be given several times.", show_default=False)
    ] = None,
    unlisted: Annotated[bool, typer.Option(help="Allow a database that hactl sql .namespaces does not list.")] = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Write every database of the running cluster into FILE, checked, mode 0600. Each is one consistent snapshot.

    A file of that name is replaced only once the new one is whole and was checked.

    \b
    Examples:
      hactl backup /root/ha-2026-11-22.tar
      hactl backup --check /root/ha-2026-11-22.tar
    """
    manifest = _check(file) if check else _write(context.obj, file, namespace, unlisted)
    if format is Format.JSON:
        asking.print_json({"file": str(file), **msgspec.to_builtins(manifest)})
        return
    for line in lines(file, manifest, check):
        typer.echo(line)


def lines(file: Path, manifest: Manifest, checked: bool) -> list[str]:
    verb = "is whole" if checked else "written and checked"
    head = (
        f"{file} {verb}: cluster {manifest.cluster_uuid}, epoch {manifest.epoch}, index {manifest.index}, "
        f"made {manifest.made} by controller {manifest.controller_id} ({manifest.version})"
    )
    patches = ("" if e.patches is None else f", schema patch {e.patches}" for e in manifest.databases)
    return [head, *(f"  {e.name}: {e.size} bytes{p}" for e, p in zip(manifest.databases, patches, strict=True))]


def _write(state_dir: Path, file: Path, namespaces: list[str] | None, unlisted: bool) -> Manifest:
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as out:
                _download(state_dir, {"databases": namespaces, "unlisted": unlisted}, out.write)
                out.flush()
                os.fsync(out.fileno())
            manifest = _check(temporary)
            temporary.rename(file)
            _sync_folder(file.parent)
            return manifest
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        asking.fail(statusview.REFUSED, f"{file} was not written: {error.strerror or error}")


def _download(state_dir: Path, wanted: dict[str, Any], write: Callable[[bytes], object]) -> None:
    path = state_dir / confsocket.CONTROL
    try:
        status, answer = confsocket.download(path, "/backup", msgspec.json.encode(wanted), write, _PART_SECONDS)
    except confsocket.EndedEarly:
        # controllerd answered, and had something to send: only its log knows what went wrong behind that.
        asking.fail(statusview.REFUSED, f"no backup was made: it ended early; journalctl -u {asking.SERVICE} says why")
    except (confsocket.NoSocket, confsocket.SocketTimeout) as error:
        asking.unreachable(path, error)
    if status != 200:
        code = statusview.NO_QUORUM if status == 503 else statusview.REFUSED
        asking.fail(code, f"no backup was made: {asking.reason_of(answer)}")


def _check(file: Path) -> Manifest:
    try:
        with tempfile.TemporaryDirectory(prefix=".hactl-check-", dir=file.parent) as folder:
            manifest, files = archive.unpack(file, Path(folder))
            for name, path in files.items():
                archive.check_database(name, path)
            return manifest
    except BadArchive as error:
        asking.fail(statusview.REFUSED, str(error))
    except OSError as error:
        asking.fail(statusview.REFUSED, f"{file} cannot be checked: {error.strerror or error}")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="The archive.", exists=True, dir_okay=False)],
    into: Annotated[
        Path | None, typer.Option(help="The state directory. Default: this machine's own.", show_default=False)
    ] = None,
    put_aside: Annotated[bool, typer.Option(help="Put the data that is there under aside/.")] = False,
    new_cluster: Annotated[
        bool, typer.Option(help="Found another cluster with this content, the one that controller.conf names.")
    ] = False,
    force: Annotated[
        bool, typer.Option(help="Do it although another controller still has a leader, whose data then yields.")
    ] = False,
    format: FormatOption = Format.TEXT,
) -> None:
    """Make the content of FILE this (stopped) controller's, as a cluster of one in a new epoch; then add units.

    Every table is compared with the archive before the new data takes the old one's place. Machines made after the
    backup are unknown then: ten minutes after the start their instances are stopped, unless local-provider is unset.

    \b
    Examples:
      hactl restore /root/ha-2026-11-22.tar
      hactl restore /root/ha-2026-11-22.tar --into /var/lib/ha-controller --put-aside
    """
    from dbaccessor import repair, restoring

    place = into if into is not None else context.obj

    def progress(sentence: str) -> None:
        asking.warn(sentence)

    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        with repair.owning([place]):
            done = restoring.restore(
                file, place, put_aside=put_aside, new_cluster=new_cluster, force=force, progress=progress
            )
    except (repair.CannotRecover, BadArchive) as error:
        asking.fail(statusview.REFUSED, str(error))
    except OSError as error:
        asking.fail(statusview.REFUSED, f"nothing was changed: {error}")
    document: dict[str, Any] = {
        "into": str(place),
        "controller-id": done.identity.controller_id,
        "cluster-uuid": done.identity.cluster_uuid,
        "epoch": msgspec.to_builtins(done.identity.epoch),
        "rows": done.rows,
    }
    if not new_cluster:
        asking.warn(UNKNOWN_INSTANCES)
    if format is Format.JSON:
        asking.print_json(document)
        return
    typer.echo(
        f"restored into {place}: controller {document['controller-id']} alone, cluster {document['cluster-uuid']}, "
        f"epoch {done.identity.epoch}"
    )
    for name, count in done.rows.items():
        typer.echo(f"  {name}: {count} rows, as in the archive")
    typer.echo("start it (systemctl start ha-controller), then add units")

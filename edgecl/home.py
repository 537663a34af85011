"""The device home: one folder with the settings, the engine and the store.

    edgecl.toml            settings
    device.key             32 random bytes, readable by the owner only: keyed hashes, and the seed
                           of the key that signs receipts
    device.db              everything learned (edgecl/store/store.py)
    class.keys             key of every class, if the store is sealed (edgecl/store/vault.py)
    receipts.jsonl         a copy of the receipts: what a restored older store must be told again
    snapshots/             copies of what was learned, for `edgecl rollback`
    engine/backbone.onnx   the frozen backbone
    engine/manifest.json   what it is, with hashes
    engine/pretrained.safetensors   the classifier that its weights came with, if there is one
    engine/adapted/        the same two files of the engine that takes adapters, if one was made
    lock                   held by the one process that writes
    socket                 where that process takes commands, while it serves
    page.passwords         hashes of the passwords of its page, if it has some
    fleet/                 what it keeps of a fleet that it joined (edgecl/fleet/member.py)

A new home is made beside its place, as `.NAME-new-...`, and moved there in one step, so it is whole
or absent; one that is replaced (`--force`) changes places with it and is then overwritten and
deleted. What a killed process left of either goes with the next `init` or `forget`.

Nothing in a home is a link: who unpacks somebody else's home must not have files of his own written
to, and what lies elsewhere would be missed by an unlearning.
"""

from __future__ import annotations

import fcntl
import glob
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from shlex import quote

from edgecl.config import Config, HeadConfig
from edgecl.errors import HomeLockedError, IntegrityError, RequestError, StoreError
from edgecl.runtime.adapters import Adapter
from edgecl.runtime.engines.base import AS_SET, EngineOptions
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.runtime.faults import in_words, telling
from edgecl.runtime.files import open_own, put_in_place, read_own, wipe, write_whole
from edgecl.runtime.manifest import Manifest, checked_engine
from edgecl.runtime.pretrained import Pretrained, load_pretrained
from edgecl.settings import load_config, save_config

_CONFIG, _KEY, _DATABASE, _CLASS_KEYS, ENGINE_FOLDER, _LOCK, _LEDGER = (
    "edgecl.toml",
    "device.key",
    "device.db",
    "class.keys",
    "engine",
    "lock",
    "receipts.jsonl",
)
ADAPTED_FOLDER, _SNAPSHOTS = "adapted", "snapshots"
_PASSWORDS, _FLEET = "page.passwords", "fleet"
SOCKET = "socket"
"""Where the process that serves a home listens (edgecl/serve/socket.py)."""
_KEY_BYTES = 32


class Home:
    """An existing device home.

    Args:
        path: The folder.

    Raises:
        RequestError: There is no home.
        ConfigError: Its settings cannot be read.
        IntegrityError: A part is missing or was changed.
    """

    def __init__(self, path: Path) -> None:
        path = Path(os.path.realpath(path))  # also the name by which copies beside it are known
        if is_damaged(path):
            raise IntegrityError(
                f"{path / _CONFIG} is missing, the rest of the home is there; restore it from a "
                "backup"
            )
        if not is_home(path):
            raise no_home(path)
        _check_parts(path)
        self.path = path
        self.config: Config = load_config(path / _CONFIG, os.environ)
        self.manifest = Manifest.load(path / ENGINE_FOLDER)
        if self.manifest.adapter_rank:
            raise IntegrityError(
                f"the engine of {path} is of an earlier edgecl, from before adapters had a head of "
                "their own; use that one, or learn anew in another home (`edgecl init --home DIR`)"
            )
        try:
            self.key = read_own(path / _KEY, 2 * _KEY_BYTES)
        except OSError as error:
            raise IntegrityError(
                f"the device key {path / _KEY} cannot be read ({error.strerror}); restore it from "
                "a backup of this home"
            ) from error
        if len(self.key) != _KEY_BYTES:
            raise IntegrityError(
                f"the device key {path / _KEY} has {len(self.key)} bytes; expected {_KEY_BYTES}; "
                "restore it from a backup of this home"
            )

    @property
    def typed(self) -> str:
        """Its path, as it is typed into a shell."""
        return quote(str(self.path))

    @property
    def settings(self) -> Path:
        """Path of the settings."""
        return self.path / _CONFIG

    @property
    def passwords(self) -> Path:
        """File of the passwords of the page, hashed; it may not be there."""
        return self.path / _PASSWORDS

    @property
    def database(self) -> Path:
        """Path of the SQLite store."""
        return self.path / _DATABASE

    @property
    def ledger(self) -> Path:
        """Path of the copy of all receipts."""
        return self.path / _LEDGER

    @property
    def snapshots(self) -> Path:
        """Folder of the snapshots; it may not be there yet."""
        return self.path / _SNAPSHOTS

    @property
    def fleet(self) -> Path:
        """Folder of the fleet that it joined; it may not be there."""
        return self.path / _FLEET

    @property
    def class_keys(self) -> Path:
        """Path of the key file; there if, and only if, the store is sealed."""
        return self.path / _CLASS_KEYS

    def snapshot(self, uid: int) -> Path:
        """Path of a snapshot's file."""
        return self.snapshots / f"s{uid}.db"

    @property
    def copies(self) -> str:
        """Prefix of folders beside the home that hold copies of it while `bench` runs."""
        return f".{self.path.name}-bench-"

    @property
    def max_pixels(self) -> int:
        """Most pixels of a picture that is decoded."""
        return self.config.picture.max_pixels

    @property
    def max_bytes(self) -> int:
        """Most bytes of a picture file that is read."""
        return self.config.picture.max_bytes

    def save_config(self, config: Config) -> None:
        """Replace the settings, in one step."""
        save_config(config, self.path / _CONFIG)
        self.config = load_config(self.path / _CONFIG, os.environ)

    def save_head(self, head: HeadConfig) -> None:
        """Replace the settings of the head; what the environment says is not written."""
        self.save_config(replace(load_config(self.settings), head=head))

    @property
    def adapter_rank(self) -> int:
        """Largest rank of the adapters that the home's second engine takes; 0 if it has none."""
        return self.engine_manifest(has_adapters=True).adapter_rank if self.has_adapters else 0

    @property
    def has_adapters(self) -> bool:
        """Whether there is an engine that takes adapters."""
        return self.adapted_folder.exists()

    @property
    def adapted_folder(self) -> Path:
        """Folder of the engine that takes adapters; it may not be there yet."""
        return self.path / ENGINE_FOLDER / ADAPTED_FOLDER

    def engine_manifest(self, *, has_adapters: bool) -> Manifest:
        """Return the description of the engine that takes adapters, or of the plain one.

        Raises:
            IntegrityError: It is missing or damaged, or of another feature map.
        """
        if not has_adapters:
            return self.manifest
        manifest = Manifest.load(self.adapted_folder)
        if manifest.feature_map != self.manifest.feature_map:
            raise IntegrityError(
                f"the engine in {self.adapted_folder} is of another backbone than the home's; "
                "delete that folder and run `edgecl consolidate`, which makes it anew"
            )
        return manifest

    def pretrained(self) -> Pretrained | None:
        """Return the classifier that the backbone's weights came with, or None.

        Raises:
            IntegrityError: It is missing or was changed.
        """
        return load_pretrained(self.path / ENGINE_FOLDER, self.manifest)

    def engine_bytes(self, *, has_adapters: bool) -> bytes:
        """Return the content of an engine file after its hash was checked.

        Raises:
            IntegrityError: It is missing or its hash differs.
        """
        folder = self.adapted_folder if has_adapters else self.path / ENGINE_FOLDER
        return checked_engine(folder, self.engine_manifest(has_adapters=has_adapters))

    def engine(
        self,
        adapters: Sequence[Adapter] = (),
        *,
        takes_adapters: bool = False,
        options: EngineOptions = AS_SET,
    ) -> OnnxEngine:
        """Load an engine after its hash was checked.

        Args:
            adapters: With any, the engine gives plain and adapted features beside each other.
            takes_adapters: Load the one that takes adapters also without any.
            options: How it runs; what is None comes from the home's settings.
        """
        engine = OnnxEngine(
            self.engine_bytes(has_adapters=takes_adapters or bool(adapters)),
            provider=options.provider or self.config.engine.provider,
            threads=options.threads or self.config.engine.threads,
            allow_fallback=options.allow_fallback,
        )
        return engine.with_adapters(*adapters) if adapters else engine

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one process that writes to this home.

        Raises:
            HomeLockedError: Another process writes.
        """
        with _locked(self.path):
            yield


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        descriptor = open_own(path / _LOCK, os.O_WRONLY | os.O_CREAT)
    except OSError as error:
        raise StoreError(f"the home {path} cannot be written {in_words(error)}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise HomeLockedError(
                f"another edgecl process writes to {path}; wait for it or stop it"
            ) from error
        yield
    finally:
        os.close(descriptor)


def _check_parts(path: Path) -> None:
    """Check that a home holds plain files and folders only.

    Raises:
        IntegrityError: It holds a link, a pipe or a device.
    """
    engine = path / ENGINE_FOLDER
    for folder in (path, engine, engine / ADAPTED_FOLDER, path / _SNAPSHOTS, path / _FLEET):
        if not folder.is_dir() or folder.is_symlink():
            continue
        for entry in sorted(folder.iterdir()):
            if entry.name == SOCKET and folder == path and entry.is_socket():
                continue  # of the process that serves it, or of one that was killed
            if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
                raise IntegrityError(
                    f"{entry} is a link or no plain file, and nothing in a home may be one; put "
                    "what it leads to in its place, or move the home as a whole"
                )


def unfinished_homes(path: Path) -> list[Path]:
    """Return what a killed `init` left beside a home: parts of a new one, or a replaced one."""
    found = sorted(path.parent.glob(f"{glob.escape(_prefix(path))}*"))
    return [folder for folder in found if not folder.is_symlink() and not _is_locked(folder)]


def _prefix(path: Path) -> str:
    return f".{path.name}-new-"


def _is_locked(path: Path) -> bool:
    try:
        with _locked(path):
            return False
    except (HomeLockedError, StoreError):
        return True


def no_home(path: Path) -> RequestError:
    """Return the error for a folder that is no home."""
    return RequestError(
        f"there is no edgecl home at {path}; make one with `edgecl init --home {quote(str(path))}`"
    )


def is_home(path: Path) -> bool:
    """Whether the folder is a device home."""
    return (path / _CONFIG).is_file()


def is_damaged(path: Path) -> bool:
    """Whether the folder holds parts of a home without its settings."""
    return not is_home(path) and any((path / part).exists() for part in (_DATABASE, _KEY))


def check_place(path: Path, *, force: bool = False) -> None:
    """Check that a home can be made here.

    Raises:
        RequestError: A home is there and `force` is off, or something else is there.
    """
    if is_home(path):
        if not force:
            raise RequestError(
                f"there is an edgecl home at {path} already; use it, name another with --home, or "
                "replace it and all it learned with --force"
            )
    elif path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RequestError(f"{path} exists and is no edgecl home; name another place with --home")


def make_home(
    path: Path,
    config: Config,
    fill: Callable[[Path, Path], None],
    *,
    force: bool = False,
    encrypt: bool = False,
) -> Home:
    """Make a device home, whole or not at all.

    Args:
        path: Where it will be; a folder that is there must be empty.
        config: Its settings.
        fill: Called with the engine folder and the path of the database; writes both.
        force: Replace a home that is there, with all that it learned.
        encrypt: Give it an empty key file; `fill` then makes a sealed store.

    Raises:
        RequestError: Something else is there.
    """
    path = Path(os.path.realpath(path))
    check_place(path, force=force)
    with telling(f"the home {path} cannot be made"):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in unfinished_homes(path):
            wipe(left)
        part = Path(tempfile.mkdtemp(prefix=_prefix(path), dir=path.parent))
    # Locked, so that nobody takes it for one that was left behind.
    with telling(f"the home {path} cannot be made"), _locked(part):
        try:
            (part / ENGINE_FOLDER).mkdir()
            save_config(config, part / _CONFIG)
            write_whole(part / _KEY, secrets.token_bytes(_KEY_BYTES), mode=0o600)
            if encrypt:
                write_whole(part / _CLASS_KEYS, b"", mode=0o600)
            fill(part / ENGINE_FOLDER, part / _DATABASE)
            if is_home(path):
                with _locked(path):
                    put_in_place(part, path)
                    wipe(part)
            else:
                part.replace(path)
        except BaseException:
            if part.exists():
                wipe(part)
            raise
    return Home(path)

"""The fleet's public description, and the admin's folder of it with the secrets.

    fleet.json            id, public keys, members, what is summed, policy; signed by the admin
    secret/fleet.key      names classes in ids; every member gets it, sealed
    secret/admin.key      signs orders and fleet.json; a merger that stands elsewhere needs no copy
    lock                  held by the one command that works on it
    secret/merger.key     signs merged heads, and contributions that classes were taken out of
    keys.safetensors      the frozen keys of the head, if it has some
    probes.safetensors    features on which what comes is tried (probes.py); on no carrier
    orders/, contributions/, requests/, merged/    as on every carrier (carriers/folder.py)

The id is a hash of the admin's public key: who was told the id needs to trust nobody who carries
fleet.json. A larger `revision` replaces a smaller one.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from edgecl.config import HeadConfig
from edgecl.errors import IntegrityError, RequestError
from edgecl.fleet.identity import (
    KEY_BYTES,
    check_device_name,
    fleet_id,
    is_hex,
    opened,
    public_hex,
    seal,
    signed,
    split_public,
)
from edgecl.fleet.sums import check_exact
from edgecl.heads import make_head_of
from edgecl.home import Home
from edgecl.runtime.codebook import Keys, load_keys
from edgecl.runtime.faults import telling
from edgecl.runtime.files import flush, open_own, read_own, write_whole
from edgecl.runtime.manifest import MOST_BYTES, MOST_ENGINE_BYTES

FLEET_NAME = "fleet.json"
_SECRETS, _KEYS = "secret", "keys.safetensors"
MOST_MEMBERS = 10_000


@dataclass(frozen=True)
class Member:
    """A device of a fleet.

    Args:
        name: What people call it; a folder of this name holds its contributions.
        key: Public Ed25519 key, hex.
        box: Public X25519 key, hex.
        sealed: The fleet's key, which only this device can read, hex.
    """

    name: str
    key: str
    box: str
    sealed: str


@dataclass(frozen=True)
class Policy:
    """What the merger asks for.

    Args:
        min_rows: A class of fewer samples stays on its device.
        most_distance: How far the mean of a known class may be from the others', in units of the
            spread within classes; 0 asks for nothing. Of lite0 and 20 pictures a class the same
            thing is up to 0.2 away, under a much darker camera 0.5, another thing mostly 0.6 to 1.3
            (docs/fleet.md).
        serve_days: For how many days a merged head predicts; 0 for ever.
        members_may_order: Whether the merger makes an order of what a member asks all to forget,
            where the admin's key lies.
    """

    min_rows: int = 1
    most_distance: float = 0.6
    serve_days: float = 0.0
    members_may_order: bool = False


@dataclass(frozen=True)
class Fleet:
    """What fleet.json says.

    Args:
        id: Hash of the admin's key.
        admin: Public key that signs this and the orders, hex.
        merger: Public key that signs merged heads, hex.
        revision: How often it was changed.
        feature_map: Hash of the frozen map of all members.
        dim: Width of its features.
        head: Name, seed and options of the head.
        keys: Digest of the frozen keys of the head, if it has some.
        members: The devices.
        policy: What the merger asks for.
    """

    id: str
    admin: str
    merger: str
    revision: int
    feature_map: str
    dim: int
    head: Mapping[str, Any]
    keys: str = ""
    members: tuple[Member, ...] = ()
    policy: Policy = field(default_factory=Policy)

    @classmethod
    def read(cls, data: bytes, what: str, known: str | None = None) -> Fleet:
        """Read a signed fleet.json.

        Args:
            data: Its content.
            what: What errors call it.
            known: The id that it must have, if it is known.

        Raises:
            IntegrityError: It is none, was changed, or is of another fleet.
        """
        body = opened(data, None, what)
        try:
            members = tuple(Member(**member) for member in body["members"])
            fleet = cls(**body | {"members": members, "policy": Policy(**body["policy"])})
            _check(fleet)
        except (TypeError, ValueError, LookupError, RequestError) as error:
            raise IntegrityError(f"{what} says of a fleet what is not to be ({error})") from error
        if known is not None and fleet.id != known:
            raise IntegrityError(
                f"{what} is of the fleet {fleet.id[:16]}, expected {known[:16]}; use a carrier of "
                "the fleet that this home joined"
            )
        return fleet

    def named(self, name: str) -> Member:
        """Return a member.

        Raises:
            RequestError: There is none of this name.
        """
        for member in self.members:
            if member.name == name:
                return member
        known = ", ".join(m.name for m in self.members[:8]) or "there is none yet"
        raise RequestError(f"no device of this fleet is called {name!r}; known: {known}")

    def of_key(self, key: str) -> Member | None:
        """Return the member with a public key, or None."""
        return next((member for member in self.members if member.key == key), None)

    def body(self) -> dict[str, Any]:
        """Return what is signed; an older edgecl reads it, too, where members may not order."""
        body = asdict(self)
        if not self.policy.members_may_order:
            del body["policy"]["members_may_order"]
        return body

    @property
    def head_config(self) -> HeadConfig:
        """The settings of the head."""
        return HeadConfig(self.head["name"], self.head["seed"], dict(self.head["options"]))


def _folder_of(name: str) -> str:
    """Return what a FAT stick makes of a device's name: capitals and last dots make no other."""
    return name.casefold().rstrip(".")


def _check(fleet: Fleet) -> None:
    keys = [fleet.admin, fleet.merger, fleet.feature_map, *(m.key for m in fleet.members)]
    if not all(is_hex(key, 64) for key in [*keys, *(m.box for m in fleet.members)]):
        raise ValueError("a key is none")
    if not is_hex(fleet.id, 32) or fleet.id != fleet_id(fleet.admin):
        raise ValueError("its id is not that of its admin's key")
    names = [check_device_name(member.name) for member in fleet.members]
    if len(set(names)) != len(names) or len({m.key for m in fleet.members}) != len(names):
        raise ValueError("a device is there twice")
    if len(names) > MOST_MEMBERS or type(fleet.revision) is not int or type(fleet.dim) is not int:
        raise ValueError("a number is none, or too large")
    if not all(isinstance(value, int | float) for value in asdict(fleet.policy).values()):
        raise ValueError("a policy is no number")
    if not isinstance(fleet.policy.members_may_order, bool):
        raise ValueError("whether members may order is not yes or no")


class Plant:
    """The folder of a fleet's admin, or of its merger.

    Args:
        path: The folder.

    Raises:
        RequestError: There is none.
        IntegrityError: A part of it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / FLEET_NAME).is_file():
            raise RequestError(
                f"there is no fleet at {path}; make one with `edgecl fleet init "
                f"--fleet {quote(str(path))} --feature-map-of HOME`"
            )
        with telling(f"{path} cannot be read"):
            self.fleet = Fleet.read(read_own(path / FLEET_NAME, MOST_BYTES), str(path / FLEET_NAME))
            self.key = self._secret("fleet")

    @property
    def admin(self) -> Ed25519PrivateKey:
        """What signs orders.

        Raises:
            RequestError: This copy of the folder has it not.
        """
        return Ed25519PrivateKey.from_private_bytes(self._secret("admin"))

    @property
    def has_admin(self) -> bool:
        """Whether what signs orders lies here and may be read."""
        return os.access(self.path / _SECRETS / "admin.key", os.R_OK)

    @property
    def merger(self) -> Ed25519PrivateKey:
        """What signs merged heads."""
        return Ed25519PrivateKey.from_private_bytes(self._secret("merger"))

    @property
    def keys(self) -> Keys | None:
        """The frozen keys of the head, if it has some."""
        path = self.path / _KEYS
        if not self.fleet.keys:
            return None
        found = load_keys(load_arrays(read_own(path, MOST_ENGINE_BYTES)))
        if found.digest != self.fleet.keys:
            raise IntegrityError(f"{path} was changed; restore it from a backup")
        return found

    @staticmethod
    @contextmanager
    def lock(path: Path) -> Iterator[None]:
        """Be the one process that works on a fleet's folder; waits for another."""
        if not path.is_dir():
            yield  # which `Plant` tells
            return
        with telling(f"{path} cannot be written"):
            descriptor = open_own(path / "lock", os.O_WRONLY | os.O_CREAT)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def add(self, name: str, public: str) -> Member:
        """Let a device be a member: its key, and the fleet's key sealed to it, go into fleet.json.

        Args:
            name: What people call it.
            public: What `fleet join` printed there.

        Raises:
            UsageError: One of them is none.
            RequestError: The name or the key is another's, or the device was forgotten.
        """
        key, box = split_public(public)
        check_device_name(name)
        for other in self.fleet.members:
            is_same = _folder_of(other.name) == _folder_of(name)
            if (other.name == name) != (other.key == key) or is_same != (other.name == name):
                raise RequestError(
                    f"the device {other.name} has this {'name' if is_same else 'key'}; "
                    "choose another name, or `edgecl fleet forget device` the other one first"
                )
        member = Member(name, key, box, seal(self.key, box, self.fleet.id))
        others = tuple(m for m in self.fleet.members if m.key != key)
        self._write(members=(*others, member))
        return member

    def remove(self, name: str) -> None:
        """Take a device off the list."""
        gone = self.fleet.named(name)
        self._write(members=tuple(m for m in self.fleet.members if m != gone))

    def _write(self, **changes: Any) -> None:
        fleet = replace(self.fleet, revision=self.fleet.revision + 1, **changes)
        write_whole(self.path / FLEET_NAME, signed(fleet.body(), self.admin))
        self.fleet = fleet

    def _secret(self, name: str) -> bytes:
        path = self.path / _SECRETS / f"{name}.key"
        try:
            data = read_own(path, KEY_BYTES)
        except OSError as error:
            raise RequestError(
                f"this copy of the fleet has no {name} key ({path}); do it where the fleet was made"
            ) from error
        if len(data) != KEY_BYTES:
            raise IntegrityError(f"{path} has {len(data)} bytes, expected {KEY_BYTES}")
        return data


def make_plant(path: Path, home: Home, keys: Keys | None, policy: Policy) -> Plant:
    """Make the folder of a new fleet, whole or not at all.

    Args:
        path: A folder that is not there, or empty.
        home: A home with the feature map and the head of all members; nothing it learned is taken.
        keys: The frozen keys of its head, if it has some.
        policy: What the merger asks for.

    Raises:
        RequestError: Something is there, or what the head learns does not add up.
    """
    check_exact(make_head_of(home.config.head, home.manifest.num_features, codebook=keys))
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RequestError(f"{path} is there already; name a new folder with --fleet")
    part = path.with_name(f".{path.name}.part")
    with telling(f"the fleet {path} cannot be made"):
        if part.is_symlink() or part.exists():
            raise RequestError(f"{part} is there, of an `init` that was cut off; delete it")
        path.parent.mkdir(parents=True, exist_ok=True)
        part.mkdir(mode=0o700)
        try:
            _fill(part, home, keys, policy)
            part.replace(path)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        flush(path.parent)
    return Plant(path)


def _fill(part: Path, home: Home, keys: Keys | None, policy: Policy) -> None:
    made = {name: secrets.token_bytes(KEY_BYTES) for name in ("admin", "merger", "fleet")}
    (part / _SECRETS).mkdir(mode=0o700)
    for name, secret in made.items():
        write_whole(part / _SECRETS / f"{name}.key", secret, mode=0o600)
    admin, merger = (Ed25519PrivateKey.from_private_bytes(made[n]) for n in ("admin", "merger"))
    manifest, head = home.manifest, home.config.head
    if keys is not None:
        write_whole(part / _KEYS, save_arrays(dict(keys.arrays())))
    fleet = Fleet(
        id=fleet_id(public_hex(admin)),
        admin=public_hex(admin),
        merger=public_hex(merger),
        revision=1,
        feature_map=manifest.feature_map,
        dim=manifest.num_features,
        head={"name": head.name, "seed": head.seed, "options": dict(head.options)},
        keys="" if keys is None else keys.digest,
        policy=policy,
    )
    write_whole(part / FLEET_NAME, signed(fleet.body(), admin))

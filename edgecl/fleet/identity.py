"""Who is who in a fleet: keys of devices, names of classes that no carrier can read, signed JSON.

A class is known by HMAC(fleet key, name, epoch), so devices that teach "cup" without asking each
other mean the same, and who finds an order on a carrier cannot tell what was forgotten. The epoch
counts the orders to forget that name; an order closes it, and what is learned later is another id.

The fleet key lies on no carrier in the clear: it is sealed to each device's own key (X25519, HKDF
with SHA-256, AES-256-GCM; the construction of ECIES, SECG SEC 1). Both keys of a device are derived
from its `device.key`: nothing new has to be kept, and a copied home has them too.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from edgecl.errors import IntegrityError, UsageError
from edgecl.home import Home
from edgecl.runtime.files import loads
from edgecl.store.text import dump_json
from edgecl.unlearning.chain import signing_key

KEY_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEX = re.compile(r"[0-9a-f]+")
# A key that encrypts one message only may do so with any nonce.
_NONCE = bytes(12)


@dataclass(frozen=True)
class DeviceKeys:
    """The keys of a device in fleets.

    Args:
        sign: Signs its contributions; it is the key of its receipts.
        box: Opens what is sealed to it.
    """

    sign: Ed25519PrivateKey
    box: X25519PrivateKey

    @classmethod
    def of(cls, home: Home) -> DeviceKeys:
        """Derive the keys of a home's device."""
        seed = hmac.new(home.key, b"fleet, x25519", hashlib.sha256).digest()
        return cls(signing_key(home), X25519PrivateKey.from_private_bytes(seed))

    @property
    def key(self) -> str:
        """What checks its signatures, 64 hex digits."""
        return public_hex(self.sign)

    @property
    def public(self) -> str:
        """What `fleet add` takes: both public keys, 128 hex digits."""
        return self.key + self.box.public_key().public_bytes_raw().hex()


def public_hex(key: Ed25519PrivateKey) -> str:
    """Return the public half of a signing key, 64 hex digits."""
    return key.public_key().public_bytes_raw().hex()


def fleet_id(admin: str) -> str:
    """Return the id of the fleet whose admin has this public key: who has the id can check it."""
    return hashlib.sha256(b"edgecl fleet\n" + bytes.fromhex(admin)).hexdigest()[:32]


def class_id(fleet_key: bytes, name: str, epoch: int) -> str:
    """Return the id of a class in a fleet, 64 hex digits.

    Args:
        fleet_key: The fleet's secret, 32 bytes.
        name: The class's name.
        epoch: How many orders to forget this name came before.
    """
    text = f"class\n{epoch}\n{unicodedata.normalize('NFC', name)}"
    return hmac.new(fleet_key, text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def check_device_name(name: str) -> str:
    """Return a device's name, which is also that of a folder on every carrier.

    Raises:
        UsageError: It is none.
    """
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name[:80]!r} is no name for a device; expected up to 64 letters, digits, dots, "
            "hyphens and underscores, beginning with a letter or digit"
        )
    return name


def is_hex(value: object, n_digits: int) -> bool:
    """Whether a value is text of so many lower-case hex digits."""
    return isinstance(value, str) and len(value) == n_digits and bool(_HEX.fullmatch(value))


def split_public(text: str) -> tuple[str, str]:
    """Return the two public keys of a device from what `fleet join` printed.

    Raises:
        UsageError: It is none.
    """
    found = text.strip().lower()
    if not is_hex(found, 4 * KEY_BYTES):
        raise UsageError(
            f"{text[:40]!r} is no key of a device; expected the 128 hex digits that `edgecl fleet "
            "join` printed there, or a file that holds them"
        )
    return found[:64], found[64:]


def seal(fleet_key: bytes, box: str, fleet: str) -> str:
    """Return a fleet's key as only one device can read it, hex.

    Args:
        fleet_key: The secret, 32 bytes.
        box: The device's public X25519 key, hex.
        fleet: Id of the fleet.
    """
    once, public = X25519PrivateKey.generate(), bytes.fromhex(box)
    shared = once.exchange(X25519PublicKey.from_public_bytes(public))
    begin = once.public_key().public_bytes_raw()
    cipher = AESGCM(_derived(shared, begin, public, fleet))
    return (begin + cipher.encrypt(_NONCE, fleet_key, fleet.encode())).hex()


def unseal(sealed: str, box: X25519PrivateKey, fleet: str) -> bytes:
    """Return the key that `seal` sealed to this device.

    Raises:
        IntegrityError: It was changed, or sealed to another device or of another fleet.
    """
    try:
        data = bytes.fromhex(sealed)
        begin, public = data[:KEY_BYTES], box.public_key().public_bytes_raw()
        shared = box.exchange(X25519PublicKey.from_public_bytes(begin))
        cipher = AESGCM(_derived(shared, begin, public, fleet))
        return cipher.decrypt(_NONCE, data[KEY_BYTES:], fleet.encode())
    except (ValueError, InvalidTag) as error:
        raise IntegrityError(
            "the fleet's key is not sealed to this device: it was added with another key; run "
            "`edgecl fleet join` again and have the key that it prints added"
        ) from error


def _derived(shared: bytes, begin: bytes, public: bytes, fleet: str) -> bytes:
    info = b"edgecl fleet key\n" + fleet.encode() + begin + public
    return HKDF(SHA256(), KEY_BYTES, None, info).derive(shared)


def signed(body: dict[str, Any], key: Ed25519PrivateKey) -> bytes:
    """Return a JSON object with its signature, in the one form in which it is read."""
    text = dump_json(body)
    return dump_json({"body": body, "signature": key.sign(text.encode()).hex()}).encode() + b"\n"


def opened(data: bytes, public: str | None, what: str) -> dict[str, Any]:
    """Return the object that `signed` signed.

    Args:
        data: What it returned.
        public: Public key of who must have signed it, hex; None takes the one that the body names
            as `admin`, which the caller then compares with one that it knows.
        what: What errors call it.

    Raises:
        IntegrityError: It was changed, or another signed it.
    """
    try:
        whole = loads(data)
        body = whole["body"]
        if dump_json(whole).encode() + b"\n" != data or not isinstance(body, dict):
            raise ValueError("it is not in the form in which it was written")
        if not is_signed(dump_json(body), whole["signature"], public or body["admin"]):
            raise ValueError("its signature is not of the key that is known for it")
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise IntegrityError(
            f"{what} is damaged or not from this fleet ({error}); nothing of it was taken"
        ) from error
    return dict(body)


def is_signed(text: str, signature: str, public: str) -> bool:
    """Whether a text was signed with the key of this public one, both hex."""
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), text.encode("utf-8", "surrogatepass"))
    except (InvalidSignature, ValueError, TypeError, AttributeError):
        return False
    return True

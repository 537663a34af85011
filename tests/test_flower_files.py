"""Which files the carrier on Flower moves: names, digests, sizes and links of hostile sides."""

from __future__ import annotations

import configparser
import hashlib
import re
from pathlib import Path

import pytest

from edgecl.settings import tomllib
from edgecl_flower.files import DOWN, UP, File, Refused, fitting, listed, read, write

FOLDER = Path(__file__).parents[1] / "packaging/edgecl-flower"
DATA = b"what is sent"
DIGEST = hashlib.sha256(DATA).hexdigest()[:16]
GOOD_UP = f"contributions/press-1/g12-{DIGEST}.efc"
GOOD_DOWN = [
    "fleet.json",
    f"orders/000001-{DIGEST}.json",
    f"merged/v7-{DIGEST}.json",
    f"merged/v7-{DIGEST}.efb",
    f"masks/r1-{DIGEST}.json",
    f"masks/l1-{DIGEST}.json",
]


@pytest.mark.parametrize("name", GOOD_DOWN)
def test_files_of_the_layout_arrive_whole(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, DATA, DOWN, 100)
    assert read(tmp_path, name, 100) == DATA
    assert [(f.name, f.digest, f.size) for f in listed(tmp_path, DOWN)] == [(name, DIGEST, 12)]
    assert listed(tmp_path, UP) == []
    with pytest.raises(Refused, match="not the name of a file that travels this way"):
        write(tmp_path, name, DATA, UP, 100)
    assert not list(tmp_path.rglob("*.part"))


BAD_NAMES = [
    "",
    "fleet.json\n",
    "/etc/passwd",
    "../fleet.json",
    f"../contributions/a/g1-{DIGEST}.efc",
    f"contributions/../g1-{DIGEST}.efc",
    f"contributions/../../g1-{DIGEST}.efc",
    f"contributions/.ssh/g1-{DIGEST}.efc",
    f"contributions/a/b/g1-{DIGEST}.efc",
    f"contributions/a/g1-{DIGEST}.efc/x",
    f"contributions/a/g1-{DIGEST}.efc\0",
    f"contributions/a/g1-{DIGEST}.py",
    f"contributions/a/g{'1' * 19}-{DIGEST}.efc",
    f"contributions/{'a' * 65}/g1-{DIGEST}.efc",
    f"contributions\\a\\g1-{DIGEST}.efc",
    f"contributions/a/g\u0661-{DIGEST}.efc",
    f"contributions/a/.g1-{DIGEST}.efc.part",
    f"masks/x/press-1/s1-{DIGEST}.json",
    f"masks/seats/../s1-{DIGEST}.json",
    GOOD_DOWN[1],
]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_any_other_name_is_refused(tmp_path: Path, name: str) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    with pytest.raises(Refused, match="is not the name of a file") as told:
        write(inside, name, DATA, UP, 100)
    assert re.fullmatch(r"[ -~]+", str(told.value)), "control characters would be shown"
    assert list(tmp_path.rglob("*")) == [inside]


@pytest.mark.parametrize(
    ("data", "limit", "text"),
    [(b"other bytes", 100, "does not have the digest"), (DATA, 11, "larger than 11 bytes")],
)
def test_bytes_that_are_not_those_of_the_name_leave_nothing(
    tmp_path: Path, data: bytes, limit: int, text: str
) -> None:
    with pytest.raises(Refused, match=text):
        write(tmp_path, GOOD_UP, data, UP, limit)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.parametrize("name", [GOOD_UP, *(f"masks/{n}" for n in (
    f"seats/press-1/s1-{DIGEST}.json", f"masked/press-1/m1-{DIGEST}.efc",
)), f"requests/press-1/r1764460800-{DIGEST}.json"])  # fmt: skip
def test_what_a_device_sends_arrives_in_its_folder(tmp_path: Path, name: str) -> None:
    write(tmp_path, name, DATA, UP, 100)
    assert [f.name for f in listed(tmp_path, UP)] == [name]
    assert listed(tmp_path, DOWN) == []


def test_links_are_neither_listed_nor_read_nor_written_through(tmp_path: Path) -> None:
    outbox, home = tmp_path / "outbox", tmp_path / "home"
    for folder in (outbox / "contributions/press-1", home):
        folder.mkdir(parents=True)
    (home / f"g1-{DIGEST}.efc").write_bytes(DATA)
    (outbox / "contributions/press-1" / f"g1-{DIGEST}.efc").symlink_to(home / f"g1-{DIGEST}.efc")
    (outbox / "contributions/home").symlink_to(home)
    (outbox / "fleet.json").symlink_to(home / f"g1-{DIGEST}.efc")
    assert listed(outbox, UP) == listed(outbox, DOWN) == []
    with pytest.raises(OSError, match="symbolic link"):
        read(outbox, f"contributions/press-1/g1-{DIGEST}.efc", 100)
    with pytest.raises(Refused, match="is a link, expected a folder"):
        write(outbox, f"contributions/home/g2-{DIGEST}.efc", DATA, UP, 100)
    # In the place of a file a link is replaced, and what it names is as it was.
    write(outbox, "fleet.json", b"new", DOWN, 100)
    assert not (outbox / "fleet.json").is_symlink()
    assert [p.read_bytes() for p in home.iterdir()] == [DATA]


def test_a_message_holds_what_fits_and_at_least_one_file() -> None:
    files = [File(str(i), "", size) for i, size in enumerate((5, 5, 1, 90))]
    assert fitting(files, 10) == files[:2]
    assert fitting(files, 100) == files[:3]
    assert fitting(files, 101) == files
    assert fitting(files[3:], 10) == files[3:]
    assert fitting([], 10) == []


def units() -> dict[str, configparser.ConfigParser]:
    found = {}
    for path in sorted((FOLDER / "units").iterdir()):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read(path)
        found[path.name] = parser
    return found


def test_units_start_what_the_distribution_has_and_keep_it_from_the_home() -> None:
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]
    known = {*project["scripts"], "flower-superlink", "flwr"}
    services = {n: u["Service"] for n, u in units().items() if n.endswith(".service")}
    assert len(services) == 4
    for name, service in services.items():
        assert service["ExecStart"].split()[0].rpartition("/")[2] in known, name
        assert service["User"] == "edgecl-flower"
        assert service["ProtectSystem"] == "strict"
    node = services["edgecl-flower-node.service"]
    assert node["ReadWritePaths"] == "/var/lib/edgecl-fleet/carrier"
    assert node["ReadOnlyPaths"] == "/var/lib/edgecl-fleet/carrier/contributions"
    assert node["InaccessiblePaths"] == "-/var/lib/edgecl"
    link = services["edgecl-flower-link.service"]["ExecStart"]
    for option in (
        "--host 127.0.0.1", "--enable-supernode-auth", "--disable-runtime-dependency-installation"
    ):  # fmt: skip
        assert option in link
    readme = (FOLDER / "README.md").read_text()
    for name in units():
        assert name.split(".")[0].replace("edgecl-flower-", "") in readme

"""The folder carrier: whole files under their digests, and nothing of anybody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecl.errors import IntegrityError, RequestError
from edgecl.fleet.carriers.folder import CONTRIBUTIONS, Folder, number_of


def test_what_is_put_is_found_whole_and_once(tmp_path: Path) -> None:
    carrier = Folder(tmp_path)
    (tmp_path / "big").write_bytes(b"y" * 5_000_000)
    first = carrier.put("g2", b"x", CONTRIBUTIONS, "press", suffix="efc")
    again = carrier.put("g2", b"x", CONTRIBUTIONS, "press", suffix="efc")
    big = carrier.put("g10", tmp_path / "big", CONTRIBUTIONS, "press", suffix="efc")
    assert first == again
    assert set(carrier.files(CONTRIBUTIONS, "press", suffix="efc")) == {first, big}
    assert carrier.devices() == ["press"]
    assert (number_of(first), number_of(big)) == (2, 10)
    assert carrier.read(first) == b"x"
    carrier.check(big)
    assert carrier.wipe(first)
    assert carrier.wipe(first)
    assert list(carrier.files(CONTRIBUTIONS, "press", suffix="efc")) == [big]


def test_a_file_that_was_cut_off_is_not_what_its_name_says(tmp_path: Path) -> None:
    carrier = Folder(tmp_path)
    path = carrier.put("000001", b"an order", "orders", suffix="json")
    path.write_bytes(b"an or")
    for look in (carrier.read, carrier.check):
        with pytest.raises(IntegrityError, match="cut off or changed"):
            look(path)
    assert carrier.put("000001", b"an order", "orders", suffix="json") == path
    assert carrier.read(path) == b"an order"


def test_links_are_neither_read_nor_written_nor_wiped(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "g1-0123456789abcdef.efc").write_bytes(b"not ours")
    carrier = Folder(tmp_path / "stick", is_made=True)
    (carrier.path / CONTRIBUTIONS).symlink_to(other)
    (carrier.path / "orders").mkdir()
    link = carrier.path / "orders" / "000001-0123456789abcdef.json"
    link.symlink_to(other / "g1-0123456789abcdef.efc")
    (carrier.path / "fleet.json").symlink_to(other / "g1-0123456789abcdef.efc")
    assert not list(carrier.files("orders", suffix="json"))
    assert not list(carrier.files(CONTRIBUTIONS, suffix="efc"))
    assert carrier.devices() == []
    with pytest.raises(IntegrityError, match="is a link"):
        carrier.fleet()
    with pytest.raises(RequestError, match="is a link"):
        carrier.put("g1", b"x", CONTRIBUTIONS, suffix="efc")
    assert carrier.wipe(link)
    assert (other / "g1-0123456789abcdef.efc").read_bytes() == b"not ours"


def test_a_stick_that_is_not_in_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="put the carrier in"):
        Folder(tmp_path / "usb")


@pytest.mark.parametrize("name", ["g1.efc", "g1-0123.efc", "../x", ".g1-0123456789abcdef.efc.part"])
def test_other_names_are_passed_over(tmp_path: Path, name: str) -> None:
    folder = tmp_path / CONTRIBUTIONS / "press"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(b"")
    assert not list(Folder(tmp_path).files(CONTRIBUTIONS, "press", suffix="efc"))

"""Sealed stores: nothing readable on the disk, and nothing at all once a key is destroyed."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import build
from edgecl.config import Config
from edgecl.doctor import examine_home
from edgecl.errors import IntegrityError, KeyDestroyedError, StoreError
from edgecl.heads import make_head
from edgecl.heads.statistics import Diagonal, Gram, KeyCounts
from edgecl.home import Home, make_home
from edgecl.learner import Learner
from edgecl.runtime.grid import quantise
from edgecl.session import open_learner, open_store
from edgecl.snapshots import rollback, take
from edgecl.store.erasure import erase, traces
from edgecl.store.progress import Position
from edgecl.store.store import Store, create_store
from edgecl.store.vault import SLOT, Vault
from edgecl.types import ForgetRequest, Kind
from edgecl.unlearning.request import forget, writing

D = 12
LABELS = ("purple bracket", "brass washer", "steel gasket")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An empty key file."""
    path = tmp_path / "class.keys"
    path.touch()
    return path


def vault(path: Path) -> Vault:
    return Vault(path, build.DEVICE_KEY)


def teach(store: Store, name: str, n: int = 150) -> Learner:
    learner = Learner(store, make_head(name, store.num_features), seed=1)
    x, y = build.features(n, store.num_features, 3)
    frames = [build.frame(LABELS[k - 1], i) for i, k in enumerate(y)]
    for i in range(0, n, 60):
        learner.learn_many(frames[i : i + 60], x[i : i + 60])
    learner.settle()
    return learner


def spoil(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


# The key file


def test_what_was_sealed_opens_for_the_same_class_and_context_only(path: Path) -> None:
    keys = vault(path)
    keys.create(1)
    keys.create(2)
    sealed = keys.seal(1, b"feature of row 7", b"secret")
    assert vault(path).open(1, b"feature of row 7", sealed) == b"secret"
    assert sealed != keys.seal(1, b"feature of row 7", b"secret")
    assert b"secret" not in sealed
    for class_uid, context, data in (
        (2, b"feature of row 7", sealed),
        (1, b"feature of row 8", sealed),
        (1, b"feature of row 7", sealed[:-1]),
        (1, b"feature of row 7", sealed[:20]),
        (1, b"feature of row 7", b""),
        (1, b"feature of row 7", sealed[:-1] + bytes([sealed[-1] ^ 1])),
    ):
        with pytest.raises(IntegrityError, match=f"of class {class_uid} is damaged or was moved"):
            keys.open(class_uid, context, data)
    with pytest.raises(IntegrityError, match=r"lacks the key of class 3; restore"):
        keys.seal(3, b"", b"")


def test_a_destroyed_key_is_gone_from_the_file_and_never_made_again(path: Path) -> None:
    keys, other = vault(path), vault(path)
    for class_uid in (1, 2):
        keys.create(class_uid)
    before, inode = path.read_bytes(), path.stat().st_ino
    sealed = [keys.seal(c, b"", b"secret") for c in (1, 2)]
    keys.destroy(1)
    keys.destroy(1)
    keys.destroy(99)  # never had one
    assert (path.stat().st_ino, path.stat().st_size) == (inode, 2 * SLOT)  # in place
    content = path.read_bytes()
    assert not any(before[i : i + 8] in content for i in range(16, 48))
    assert content[SLOT:] == before[SLOT:]
    for reader in (keys, other, vault(path)):
        with pytest.raises(KeyDestroyedError, match="was destroyed when it was unlearned"):
            reader.open(1, b"", sealed[0])
        assert reader.open(2, b"", sealed[1]) == b"secret"
    with pytest.raises(KeyDestroyedError):
        keys.create(1)
    assert (keys.living, keys.destroyed) == ({2}, {1})


def test_keys_come_with_the_device_key_and_in_their_own_slots_only(path: Path) -> None:
    keys = vault(path)
    keys.create(1)
    keys.create(2)
    sealed = keys.seal(1, b"", b"secret")
    with pytest.raises(IntegrityError, match=r"another device\.key; restore"):
        Vault(path, bytes(32)).open(1, b"", sealed)
    one = path.read_bytes()
    spoil(path, SLOT + 20)
    with pytest.raises(IntegrityError, match=r"slot 1 of .* is damaged; restore the key file"):
        vault(path)
    path.write_bytes(bytes(SLOT) + one[SLOT:])  # zeros are a slot cut short at the end only
    with pytest.raises(IntegrityError, match="slot 0"):
        vault(path)
    path.unlink()
    with pytest.raises(IntegrityError, match="cannot be read"):
        vault(path)


def test_a_key_that_was_being_written_is_ignored_and_written_over(path: Path) -> None:
    keys = vault(path)
    keys.create(1)
    sealed = keys.seal(1, b"", b"secret")
    keys.create(2)
    whole = path.read_bytes()
    for n in range(SLOT + 1):
        path.write_bytes(whole[: SLOT + n])
        again = vault(path)
        assert again.living == ({1, 2} if n == SLOT else {1})
        again.create(2)
        assert again.open(2, b"", again.seal(2, b"", b"x")) == b"x"
        assert again.open(1, b"", sealed) == b"secret"
        assert path.stat().st_size == 2 * SLOT
    path.write_bytes(whole[:SLOT] + bytes(SLOT))  # the file had grown already
    again = vault(path)
    again.create(3)
    assert (again.living, path.stat().st_size) == ({1, 3}, 2 * SLOT)


def test_a_destruction_that_was_cut_short_counts_and_is_finished(path: Path) -> None:
    keys = vault(path)
    keys.create(1)
    keys.create(2)
    living = path.read_bytes()
    keys.destroy(1)
    gone = path.read_bytes()
    for n in range(SLOT + 1):
        path.write_bytes(gone[:n] + living[n:])
        again = vault(path)
        assert again.destroyed == ({1} if n > 8 else set())
        again.destroy(1)
        assert path.read_bytes() == gone


def test_a_full_disk_leaves_the_key_file_as_it_was(path: Path) -> None:
    keys = vault(path)
    keys.create(1)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SLOT + 30, limits[1]))
    try:
        with pytest.raises(StoreError, match=r"cannot be written.*free some disk space"):
            keys.create(2)
        after = path.read_bytes()
        keys.destroy(1)  # needs no room
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert after == before
    keys.create(2)
    assert (keys.living, keys.destroyed) == ({2}, {1})


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.integers(1, 5)),
        st.tuples(st.just("destroy"), st.integers(1, 5)),
        st.tuples(st.just("reopen"), st.just(0)),
        st.tuples(st.just("tear"), st.integers(1, SLOT - 1)),
    ),
    max_size=30,
)


@given(operations=OPERATIONS)
@settings(max_examples=60)
def test_keys_live_from_creation_to_destruction(
    path: Path, operations: list[tuple[str, int]]
) -> None:
    path.write_bytes(b"")
    keys = vault(path)
    sealed: dict[int, bytes] = {}
    destroyed: set[int] = set()
    for what, n in operations:
        if what == "create" and n in destroyed:
            with pytest.raises(KeyDestroyedError):
                keys.create(n)
        elif what == "create":
            keys.create(n)
            sealed.setdefault(n, keys.seal(n, b"row", bytes([n])))
        elif what == "destroy":
            keys.destroy(n)
            destroyed |= {n} & set(sealed)
        elif what == "reopen":
            keys = vault(path)
        else:  # the power goes while a slot is added
            size = path.stat().st_size // SLOT * SLOT
            path.write_bytes(path.read_bytes()[:size] + b"\x99" * n)
            keys = vault(path)
        assert keys.destroyed == destroyed
        assert keys.living == set(sealed) - destroyed
    for n, data in sealed.items():
        if n in destroyed:
            with pytest.raises(KeyDestroyedError):
                keys.open(n, b"row", data)
        else:
            assert keys.open(n, b"row", data) == bytes([n])
    assert path.stat().st_size <= (len(sealed) + 1) * SLOT


# The sealed store


def plain_traces(store: Store) -> list[bytes]:
    """Return what a file that is not sealed holds of every class."""
    found = [store.picture(uid) for uid, _ in store.stored_samples()]
    found += [row.tobytes() for row in store.stored_rows()[0]]
    for uid in store.names:
        for source in store.sources():
            found += store.statistic.pack(store.folded(uid, source))
    return [trace for trace in found if len(set(trace)) > 8]


@pytest.mark.parametrize("sealed", [False, True])
def test_no_file_holds_a_picture_a_feature_or_a_statistic(tmp_path: Path, sealed: bool) -> None:
    with build.store(tmp_path / "s.db", sealed=sealed) as store:
        teach(store, "ridge", 270)
        assert min(store.n_seen().values()) > Gram(D).fold_limit
        needles = plain_traces(store)
        assert len(needles) > 540
        content = b"".join(p.read_bytes() for p in tmp_path.iterdir())
        assert {needle in content for needle in needles} == {not sealed}


@pytest.mark.parametrize(
    ("name", "second_moment"),
    [
        ("ridge", Gram.name),
        ("prototype", Diagonal.name),
        ("uer", Diagonal.name),
        ("key-value", KeyCounts.name),
    ],
)
def test_a_sealed_store_learns_the_same_head_to_the_bit(
    tmp_path: Path, name: str, second_moment: str
) -> None:
    scorers, rows = [], []
    for sealed in (False, True):
        file = tmp_path / f"{sealed}.db"
        options = {"second_moment": second_moment, "capacity_samples": 40}
        with build.store(file, sealed=sealed, **options) as store:
            teach(store, name, 270)
        keys = build.vault(file) if sealed else None
        with Store(file, capacity_samples=40, vault=keys) as store:
            learner = Learner(store, make_head(name, D), seed=1)
            scorers.append(learner.head.scorer(store.names))
            rows.append(store.stored_rows()[0].tobytes())
            assert [store.picture(uid) for uid, _ in store.stored_samples()]
            assert store.is_sealed is sealed
    build.assert_same(*scorers)
    assert rows[0] == rows[1]


def test_views_are_sealed_too(tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db", sealed=True) as store:
        teach(store, "ridge", 9)
        uids = [uid for uid, _ in store.stored_samples()]
        views = quantise(np.random.default_rng(0).uniform(0, 3, (2, D)).astype(np.float32))
        with store.transaction():
            store.add_views(uids[0], views)
            drawn = store.draw_due(1, rest=1, n_views=3)
            assert drawn is not None
            assert np.array_equal(drawn[0][0, 1:], views)
        content = b"".join(p.read_bytes() for p in tmp_path.iterdir())
        assert not any(row.tobytes() in content for row in views)


def test_an_old_copy_is_unreadable_once_the_key_is_destroyed(tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db", sealed=True) as store:
        teach(store, "ridge", 270)
        gone = store.class_uid(LABELS[1])
        (tmp_path / "old").mkdir()
        for file in tmp_path.glob("s.db*"):  # with its log
            shutil.copy2(file, tmp_path / "old")
        with store.transaction():
            erase(store, Kind.CLASS, gone)
        store.destroy_key(gone)
        store.destroy_key(gone)
        assert store.lost_classes() == ()
        expected = {uid: Gram(D).pack(store.moments(uid)) for uid in store.names}
        sample = store.stored_samples()[0][0]
        ((_, (picture, sealed)),) = traces(store, Kind.SAMPLE, sample, 9)
        assert picture == store.picture(sample)
        content = b"".join(p.read_bytes() for p in tmp_path.glob("s.db*"))
        assert sealed[20:60] in content  # a larger blob may lie on several pages
        assert picture[20:60] not in content

    with Store(tmp_path / "old" / "s.db", vault=build.vault(tmp_path / "s.db")) as old:
        assert old.lost_classes() == (gone,)
        (first,) = old.connection.execute(
            "SELECT min(uid) FROM replay WHERE is_stored AND class_uid = ?", (gone,)
        ).fetchone()
        readers: list[Callable[[], object]] = [
            lambda: old.moments(gone),
            lambda: old.picture(first),
        ]
        for read in readers:
            with pytest.raises(KeyDestroyedError, match="old copy"):
                read()
        assert {uid: Gram(D).pack(m) for uid, m in old.all_moments().items()} == expected
        assert set(old.stored_rows()[1].tolist()) == set(expected)
        ((_, forms),) = traces(old, Kind.SAMPLE, first, 9)
        assert len(forms) == 1
        with old.transaction():
            assert erase(old, Kind.CLASS, gone)["class_stats"] == 1
        assert old.lost_classes() == ()
        assert len(old.stored_rows()[0])


def test_a_new_class_of_an_old_copy_takes_no_uid_that_was_unlearned(tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db", sealed=True) as store:
        with store.transaction():
            assert store.add_class("a") == 1
        shutil.copy2(tmp_path / "s.db", tmp_path / "old.db")
        shutil.copy2(tmp_path / "s.db-wal", tmp_path / "old.db-wal")
        for name in ("b", "c", "d"):
            with store.transaction():
                uid = store.add_class(name)
            with store.transaction():
                erase(store, Kind.CLASS, uid)
            if name != "d":
                store.destroy_key(uid)
    with Store(tmp_path / "old.db", vault=build.vault(tmp_path / "s.db")) as old:
        with old.transaction():
            assert [old.add_class(name) for name in ("e", "f")] == [4, 5]
        assert old.connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_blobs_cannot_be_swapped(tmp_path: Path) -> None:
    with build.store(tmp_path / "s.db", sealed=True, capacity_samples=200) as store:
        teach(store, "ridge", 270)
        a, b = store.class_uid(LABELS[0]), store.class_uid(LABELS[1])
        uids = [uid for uid, class_uid in store.stored_samples() if class_uid == a][:2]
        swap = "UPDATE {0} SET {1} = (SELECT {2} FROM {3} WHERE {4} = ?) WHERE {5} = ?"
        cases: list[tuple[tuple[str, ...], tuple[int, int], Callable[[], object]]] = [
            (("pictures", "data", "data", "pictures", "uid", "uid"), (uids[1], uids[0]),
             lambda: store.picture(uids[0])),
            (("features", "x", "x", "features", "uid", "uid"), (uids[1], uids[0]),
             store.stored_rows),
            (("pictures", "data", "x", "features", "uid", "uid"), (uids[0], uids[0]),
             lambda: store.picture(uids[0])),
            (("class_stats", "second", "total", "class_stats", "class_uid", "class_uid"), (a, a),
             lambda: store.moments(a)),
            (("class_stats", "total", "total", "class_stats", "class_uid", "class_uid"), (b, a),
             lambda: store.moments(a)),
            (("samples", "class_uid", "class_uid", "samples", "class_uid", "uid"), (b, uids[0]),
             lambda: store.picture(uids[0])),
        ]  # fmt: skip
        for words, numbers, read in cases:
            read()
            store.connection.execute("BEGIN")
            store.connection.execute(swap.format(*words), numbers)
            with pytest.raises(IntegrityError, match="was moved there"):
                read()
            store.connection.execute("ROLLBACK")


def test_a_store_and_its_keys_come_together_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "s.db"
    with build.store(file, sealed=True) as store:
        teach(store, "ridge", 9)
    whole = build.keys_of(file).read_bytes()
    with pytest.raises(IntegrityError, match=r"encrypted and its key file is missing.*class\.keys"):
        Store(file)
    build.keys_of(file).write_bytes(whole[: 2 * SLOT])
    with pytest.raises(IntegrityError, match=rf"lacks the key of {LABELS[2]}; restore"):
        Store(file, vault=build.vault(file))
    build.keys_of(file).write_bytes(whole)
    with Store(file, vault=build.vault(file, bytes(32))) as store:
        with pytest.raises(IntegrityError, match=r"another device\.key"):
            store.stored_rows()
    build.store(tmp_path / "plain.db").close()
    with pytest.raises(IntegrityError, match="not encrypted, its home has a key file"):
        Store(tmp_path / "plain.db", vault=build.vault(file))


def test_a_key_that_cannot_be_written_leaves_the_store_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with build.store(tmp_path / "s.db", sealed=True) as store:
        learner = teach(store, "ridge", 9)
        before = (
            "\n".join(store.connection.iterdump()),
            build.keys_of(tmp_path / "s.db").read_bytes(),
        )
        real = os.pwrite

        def full(file: int, data: bytes, place: int) -> int:
            if place % SLOT:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(file, data[:10], place)

        x, _ = build.features(1, D, 1)
        with monkeypatch.context() as patch:
            patch.setattr("edgecl.store.vault.os.pwrite", full)
            with pytest.raises(StoreError, match="free some disk space"):
                learner.learn_many([build.frame("new", 0)], x)
        after = (
            "\n".join(store.connection.iterdump()),
            build.keys_of(tmp_path / "s.db").read_bytes(),
        )
        assert after == before
        # A rolled back class leaves its key, and the next class of that uid takes it.
        with monkeypatch.context() as patch:
            patch.setattr(store, "set_position", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                learner.learn_many(
                    [build.frame("new", 0)], x, position=("k", Position(1, b"", False))
                )
        assert learner.learn_many([build.frame("new", 0)], x)[0].n_classes == 4
        assert store.class_uid("new") == 4
        assert build.keys_of(tmp_path / "s.db").stat().st_size == 4 * SLOT


# The home


@pytest.fixture
def sealed_home(made_home: Path, tmp_path: Path) -> Home:
    """A home with a sealed store that learned nothing."""
    manifest = Home(made_home).manifest

    def fill(engine: Path, database: Path) -> None:
        shutil.copytree(made_home / "engine", engine, dirs_exist_ok=True)
        create_store(
            database,
            feature_map=manifest.feature_map,
            num_features=manifest.num_features,
            second_moment=Gram.name,
            sealed=True,
        )

    return make_home(tmp_path / "home", Config(), fill, encrypt=True)


def vault_of(home: Home) -> Vault:
    return Vault(home.class_keys, home.key)


def said(home: Home) -> tuple[str, str]:
    found = next(f for f in examine_home(home.path) if f.name == "store")
    return found.state, found.text


def test_the_doctor_examines_the_keys(sealed_home: Home) -> None:
    assert stat.S_IMODE(sealed_home.class_keys.stat().st_mode) == 0o600
    teach_home(sealed_home)
    pragmas = "journal wal, secure_delete 1"
    assert said(sealed_home) == (
        "ok",
        f"classes: 3, samples learned: 22, {pragmas}, sealed, 3 keys",
    )
    keys = sealed_home.class_keys.read_bytes()

    with open_store(sealed_home) as store:
        store.destroy_key(store.class_uid(LABELS[1]))
    state, text = said(sealed_home)
    assert state == "bad"
    assert f"keys of {LABELS[1]} were destroyed" in text

    with open_store(sealed_home) as store, store.transaction():
        gone = store.class_uid(LABELS[1])
        erase(store, Kind.CLASS, gone)
        store.connection.execute(
            "INSERT INTO tombstones(kind, target, tag, receipt_id) VALUES ('class', ?, 't', 'r1')",
            (gone,),
        )
    assert said(sealed_home)[1].endswith("sealed, 2 keys")
    sealed_home.class_keys.write_bytes(keys)  # an old key file comes back
    state, text = said(sealed_home)
    assert state == "bad"
    assert "holds keys of 1 unlearned classes" in text
    open_store(sealed_home).close()
    assert said(sealed_home)[1].endswith("sealed, 2 keys")

    sealed_home.class_keys.unlink()
    assert said(sealed_home)[0] == "bad"
    with pytest.raises(IntegrityError, match="key file is missing"):
        open_store(sealed_home)


def teach_home(home: Home, labels: tuple[str, ...] = LABELS, start: int = 0) -> None:
    with writing(home) as session:
        store = session.store
        learner = open_learner(home, store)
        x, y = build.features(24, store.num_features, len(labels), seed=start)
        frames = [build.frame(labels[k - 1], start + i) for i, k in enumerate(y)]
        learner.learn_many(frames, x)
        learner.settle()


@pytest.mark.parametrize("name", ["ridge", "uer"])
def test_an_old_database_is_rid_of_a_class_that_it_cannot_read(
    sealed_home: Home, name: str
) -> None:
    build.change_head(sealed_home, name, sealed=True)
    teach_home(sealed_home)
    old = sealed_home.path.parent / "old"
    shutil.copytree(sealed_home.path, old)
    with writing(sealed_home) as session:
        store = session.store
        gone = store.class_uid(LABELS[1])
        done = forget(
            sealed_home, open_learner(sealed_home, store), ForgetRequest(LABELS[1]), verify=True
        )
        assert done.verified, done.faults
    assert vault_of(sealed_home).destroyed == {gone}
    shutil.copy2(old / "device.db", sealed_home.database)
    with writing(sealed_home) as session:
        store = session.store
        learner = open_learner(sealed_home, store)
        assert set(store.names.values()) == {LABELS[0], LABELS[2]}
        assert store.lost_classes() == store.revived_keys() == ()
        left = learner.head.scorer(store.names)
        learner.head.rebuild(store)
        learner.head.settle(store)
        build.assert_same(left, learner.head.scorer(store.names))
    assert said(sealed_home)[1].endswith("sealed, 2 keys")


def test_a_forgetting_cut_off_before_the_key_went_destroys_it_next(
    sealed_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    teach_home(sealed_home)

    def pulled_plug(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Vault, "destroy", pulled_plug)
        with pytest.raises(KeyboardInterrupt), writing(sealed_home) as session:
            forget(sealed_home, session.learner, ForgetRequest(LABELS[1]))
    assert vault_of(sealed_home).destroyed == set()
    assert said(sealed_home)[0] == "bad"
    with writing(sealed_home) as session:
        store = session.store
        assert not store.has_requests()
    assert vault_of(sealed_home).destroyed == {2}
    assert said(sealed_home)[0] == "ok"


def test_a_sealed_home_rolls_back(sealed_home: Home) -> None:
    teach_home(sealed_home)
    with writing(sealed_home) as session:
        store = session.store
        taken = take(sealed_home, store)
        rows = store.stored_rows()[0]
        content = b"".join(p.read_bytes() for p in sealed_home.snapshots.iterdir())
        assert not any(row.tobytes() in content for row in rows)
    teach_home(sealed_home, ("later",), start=100)
    with writing(sealed_home) as session:
        store = session.store
        rollback(sealed_home, open_learner(sealed_home, store), taken.uid)
        assert set(store.names.values()) == set(LABELS)
        assert np.array_equal(store.stored_rows()[0], rows)
    teach_home(sealed_home, ("latest",), start=200)
    with open_store(sealed_home, read_only=True) as store:
        assert store.class_uid("latest") == 5  # "later" had 4
        assert store.is_sealed


@pytest.mark.slow
def test_init_encrypts_when_told(tmp_path: Path) -> None:
    home = tmp_path / "home"
    words = ("init", "--backbone", "test_efficientnet", "--weights", "random", "--image-size", 64)
    made = build.last_json(build.run_edgecl(*words, "--encrypt", "--home", home, "--json"))
    assert made["encrypted"] is True
    folder = build.part_folder(tmp_path / "parts", 2)
    build.last_json(build.run_edgecl("train-stream", folder, "--home", home, "--json"))
    assert build.last_json(build.run_edgecl("status", "--home", home, "--json"))["encrypted"]
    found = build.last_json(build.run_edgecl("verify", "--home", home, "--json"))
    assert found["store"].endswith("sealed, 4 keys")
    picture = (folder / build.PARTS[0] / "000.jpg").read_bytes()[-64:]
    files = [p for p in home.rglob("*") if p.is_file()]
    assert not any(picture in p.read_bytes() for p in files)

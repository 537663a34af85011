"""Contributions merged into a home: the bits of one place, and taken off again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import build
from edgecl.device import Device
from edgecl.errors import EdgeclError, RequestError, UsageError
from edgecl.fleet.collect import collect, device_of, export
from edgecl.fleet.contribution import digest, read, sums, write
from edgecl.fleet.header import Contribution
from edgecl.fleet.take import take
from edgecl.home import Home
from edgecl.mending import plan_undo
from edgecl.runtime.scoring import Scorer
from edgecl.session import reading
from edgecl.store.exports import exports_of
from edgecl.store.foreign import foreign
from edgecl.types import ForgetRequest, Kind
from edgecl.unlearning.chain import signing_key
from edgecl.unlearning.request import forget, writing

D = 12
N = 120
HEADS = ("ridge", "prototype", "key-value")
each_head = pytest.mark.parametrize("head", HEADS)


@dataclass
class Place:
    """A home and what it was taught."""

    home: Home

    @classmethod
    def new(cls, path: Path, head: str = "ridge", **options: Any) -> Place:
        return cls(build.tiny_home(path, head, D, **options))

    def learn(self, labels: list[str], x: np.ndarray, source: str = "gate") -> Place:
        with writing(self.home) as session:
            frames = [
                replace(build.frame(label, i), source=source) for i, label in enumerate(labels)
            ]
            session.learner.learn_many(frames, x)
            session.learner.settle()
        return self

    def file(self, path: Path, **how: Any) -> Contribution:
        with writing(self.home) as session:
            found, bodies = collect(session, **how)
            export(session, path, found, bodies, is_plain=True)
        return read(path)

    def merge(self, *files: Contribution) -> Any:
        with writing(self.home) as session:
            return take(session, files)

    def forget(self, name: str, kind: Kind = Kind.SOURCE, *, verify: bool = False) -> Any:
        with writing(self.home) as session:
            done = forget(self.home, session.learner, ForgetRequest(name, "", kind), verify=verify)
        return done

    def scorer(self) -> Scorer:
        with reading(self.home) as session:
            return session.exact_scorer()

    def bits(self) -> dict[str, bytes]:
        """All that it predicts with, of each class apart: the order of classes is its own."""
        scorer = self.scorer()
        names, out = list(scorer.labels), {}
        order = sorted(range(len(names)), key=lambda k: names[k])
        for key, array in scorer.arrays().items():
            axis = array.shape.index(len(names)) if len(names) in array.shape else None
            out[key] = (array if axis is None else np.take(array, order, axis)).tobytes()
        return out | {"labels": json.dumps(sorted(names)).encode()}


def taught(n: int = N, n_classes: int = 7) -> tuple[list[str], np.ndarray]:
    x, y = build.features(n, D, n_classes)
    return [f"part-{c}" for c in y], x - 1


def spread(tmp_path: Path, head: str, n: int = 3, **options: Any) -> tuple[list[Place], Place]:
    """Some devices, and one place that learned all of it."""
    labels, x = taught()
    owner = np.random.default_rng(1).integers(0, n, len(x))
    devices = []
    for k in range(n):
        mine = np.flatnonzero(owner == k)
        place = Place.new(tmp_path / f"device-{k}", head, **options)
        devices.append(place.learn([labels[i] for i in mine], x[mine]))
    return devices, Place.new(tmp_path / "one", head, **options).learn(labels, x)


@each_head
def test_merged_devices_are_one_place_bit_for_bit_in_any_order(tmp_path: Path, head: str) -> None:
    devices, one = spread(tmp_path, head)
    files = [d.file(tmp_path / f"{i}.efc") for i, d in enumerate(devices)]
    for order in ((0, 1, 2), (2, 0, 1), (1, 2, 0)):
        place = Place.new(tmp_path / f"merged-{order}", head)
        report = place.merge(*(files[i] for i in order))
        assert place.bits() == one.bits()
        assert report.is_exact
        assert sum(report.taken.values()) == sum(report.classes.values()) == N
    # One after the other, and beside what a home learned itself.
    devices[0].merge(files[2])
    devices[0].merge(files[1])
    assert devices[0].bits() == one.bits()


@each_head
def test_folded_sums_merge_as_rows_do(tmp_path: Path, head: str) -> None:
    labels, x = taught(300, 2)
    places = [Place.new(tmp_path / f"{k}", head) for k in range(2)]
    for place, part in zip(places, (slice(0, 145), slice(145, 300)), strict=True):
        place.learn(labels[part], x[part])
    one = Place.new(tmp_path / "one", head).learn(labels, x)
    found = [place.file(tmp_path / f"{i}.efc") for i, place in enumerate(places)]
    assert {part.form for c in found for part in c.parts} == {"gram"}
    merged = Place.new(tmp_path / "merged", head)
    merged.merge(*found)
    assert merged.bits() == one.bits()
    merged.learn(labels[:9], x[:9])
    assert merged.bits() == one.learn(labels[:9], x[:9]).bits()


@each_head
def test_a_device_is_withdrawn_exactly_with_a_receipt(tmp_path: Path, head: str) -> None:
    devices, _ = spread(tmp_path, head)
    files = [d.file(tmp_path / f"{i}.efc") for i, d in enumerate(devices)]
    place, other = Place.new(tmp_path / "m", head), Place.new(tmp_path / "o", head)
    place.merge(*files)
    other.merge(files[0], files[2])
    done = place.forget(f"fleet:{files[1].device}", verify=True)
    assert done.verified
    assert done.receipt.body["mode"] == "exact_head"
    assert place.bits() == other.bits()
    with reading(place.home) as session:
        assert f"fleet:{files[1].device}" not in session.store.sources().values()


def test_the_newest_generation_wins_however_often_and_late_files_come(tmp_path: Path) -> None:
    devices, _ = spread(tmp_path, "ridge")
    old = devices[1].file(tmp_path / "old.efc")
    old = read(shutil.move(tmp_path / "old.efc", tmp_path / "away.efc"))
    labels, x = taught(30, 3)
    devices[1].learn([f"new-{label}" for label in labels], x, source="dock")
    devices[1].forget("part-3", Kind.CLASS)
    new = devices[1].file(tmp_path / "new.efc")
    assert new.generation > old.generation
    expected = Place.new(tmp_path / "expected")
    expected.merge(new)
    place = Place.new(tmp_path / "m")
    assert place.merge(old).taken == {old.device: old.count}
    with reading(place.home) as session:
        uids = {name: uid for uid, name in session.store.names.items()}
    report = place.merge(new)
    assert report.replaced == [new.device]
    assert place.bits() == expected.bits()
    for again in ((old,), (new,), (new, old), (old, new)):
        assert place.merge(*again).known == [new.device]
        assert place.bits() == expected.bits()
    with reading(place.home) as session:  # classes keep their uids, and what went is gone
        now = {name: uid for uid, name in session.store.names.items()}
        assert "part-3" not in now
        assert {n: u for n, u in now.items() if n in uids} == {
            n: u for n, u in uids.items() if n in now
        }
        assert sum(session.store.n_seen().values()) == new.count


def test_what_came_from_others_is_not_given_on(tmp_path: Path) -> None:
    devices, _ = spread(tmp_path, "ridge")
    before = devices[0].file(tmp_path / "0.efc")
    devices[0].merge(devices[1].file(tmp_path / "1.efc"), devices[2].file(tmp_path / "2.efc"))
    after = devices[0].file(tmp_path / "0b.efc")
    assert after.parts == before.parts
    assert after.generation > before.generation


def test_classes_merge_by_name_also_where_one_was_renamed(tmp_path: Path) -> None:
    x, _ = build.features(20, D, 1)
    a = Place.new(tmp_path / "a").learn(["mug"] * 10 + ["bolt"] * 10, x)
    b = Place.new(tmp_path / "b").learn(["mug"] * 20, x)
    with writing(a.home) as session, session.store.transaction():
        session.store.rename_class("mug", "cup")
    report = a.merge(b.file(tmp_path / "b.efc"))
    assert report.classes == {"cup": 20}
    with reading(a.home) as session:
        assert session.store.n_seen() == {1: 30, 2: 10}


def test_a_sealed_home_writes_features_only_if_that_is_meant(tmp_path: Path) -> None:
    labels, x = taught()
    sealed = Place.new(tmp_path / "s", sealed=True).learn(labels, x)
    open_one = Place.new(tmp_path / "o").learn(labels, x)
    with writing(sealed.home) as session:
        found, bodies = collect(session)
        with pytest.raises(RequestError, match="add --plain"):
            export(session, tmp_path / "s.efc", found, bodies)
    assert not (tmp_path / "s.efc").exists()
    other = Place.new(tmp_path / "t", sealed=True)
    other.merge(sealed.file(tmp_path / "s.efc"))
    assert other.bits() == open_one.bits()
    other.forget("part-2", Kind.CLASS, verify=True)
    data = (other.home.database).read_bytes()
    assert all(row.tobytes() not in data for row in x[:20].astype(np.float16))


def test_the_total_form_says_the_same_sums_and_is_not_taken_by_a_home(tmp_path: Path) -> None:
    from edgecl.fleet.contribution import total

    labels, x = taught()
    place = Place.new(tmp_path / "a").learn(labels, x)
    whole, small = place.file(tmp_path / "a.efc"), place.file(tmp_path / "t.efc", total=True)
    added = sums(whole, whole.parts[0])
    for part in whole.parts[1:]:
        added = added.plus(sums(whole, part))
    assert total(small) == added
    with pytest.raises(RequestError, match="without --total"):
        Place.new(tmp_path / "b").merge(small)
    assert place.file(tmp_path / "m.efc", min_rows=30).count < N


def test_a_file_since_an_earlier_one_has_only_what_is_new(tmp_path: Path) -> None:
    labels, x = taught()
    place, other = Place.new(tmp_path / "a").learn(labels, x), Place.new(tmp_path / "b")
    old, new, home = tmp_path / "old.efc", tmp_path / "new.efc", place.home.path
    build.invoke("export", "contribution", "-o", old, "-H", home)
    place.learn(["bolt"] * 9, x[:9])
    with pytest.raises(UsageError, match="would replace the file that it leaves out"):
        build.invoke("export", "contribution", "-o", old, "--since", old, "-H", home)
    build.invoke("export", "contribution", "-o", new, "--since", old, "-H", home)
    with pytest.raises(EdgeclError, match="leaves out 7 parts of an earlier file of a-"):
        build.invoke("merge", new, "-H", other.home.path)
    assert {len(read(p, *e).parts) for p, e in ((old, ()), (new, (read(old),)))} == {7, 8}
    build.invoke("merge", old, new, "-H", other.home.path)
    assert other.bits() == place.bits()


# Refusals


def edited(file: Contribution, home: Home, path: Path, **values: Any) -> Contribution:
    bodies = {
        name: place.read_bytes()[begin:end] for name, (place, begin, end) in file.spans.items()
    }
    write(path, replace(file, path=None, **values), bodies, signing_key(home))
    return read(path)


REFUSED: dict[str, tuple[Callable[[Contribution], dict[str, Any]], str]] = {
    "another map": (lambda c: {"feature_map": "a" * 64}, "features of the map aaaaaaaaaaaaaaaa"),
    "another head": (lambda c: {"head": "uer"}, "is for the head uer"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_does_not_add_up_is_refused_and_changes_nothing(tmp_path: Path, what: str) -> None:
    devices, _ = spread(tmp_path, "ridge", 2)
    values, said = REFUSED[what]
    good = devices[1].file(tmp_path / "b.efc")
    bad = edited(good, devices[1].home, tmp_path / "x.efc", **values(good))
    before = devices[0].bits()
    with pytest.raises(EdgeclError, match=said):
        devices[0].merge(good, bad)
    assert devices[0].bits() == before


def test_other_heads_are_refused_with_the_reason(tmp_path: Path) -> None:
    labels, x = taught()
    ridge = Place.new(tmp_path / "r").learn(labels, x).file(tmp_path / "r.efc")
    with pytest.raises(RequestError, match="is for the head ridge; this home has prototype"):
        Place.new(tmp_path / "p", "prototype").merge(ridge)
    uer = Place.new(tmp_path / "u", "uer")
    with pytest.raises(RequestError, match="learns by gradient"):
        uer.merge(ridge)
    with writing(uer.home) as session, pytest.raises(RequestError, match="learns by gradient"):
        collect(session)


def test_copies_other_keys_and_its_own_are_refused(tmp_path: Path) -> None:
    labels, x = taught()
    a = Place.new(tmp_path / "a").learn(labels, x)
    b = Place.new(tmp_path / "b").learn(labels[:50], x[:50])
    with pytest.raises(RequestError, match="count twice"):
        a.merge(a.file(tmp_path / "a.efc"))
    first = b.file(tmp_path / "b.efc")
    other = edited(
        first, a.home, tmp_path / "k.efc", key=a.file(tmp_path / "a.efc").key, generation=99
    )
    copy = edited(first, b.home, tmp_path / "c.efc", parts=first.parts[:-1], generation=3)
    assert digest(copy) != digest(first)
    same = edited(first, b.home, tmp_path / "d.efc", parts=first.parts[:-1])
    for files in ((first, same), (same, first), (first, other), (other, first)):
        with pytest.raises(RequestError, match="differ"):
            a.merge(*files)
    a.merge(first)
    with pytest.raises(RequestError, match="another key than before"):
        a.merge(other)
    with pytest.raises(RequestError, match="differ"):
        a.merge(same)


# What an unlearning does to files, and what a home remembers


def test_an_unlearning_erases_the_file_or_says_that_it_is_out_of_reach(tmp_path: Path) -> None:
    labels, x = taught()
    place = Place.new(tmp_path / "a").learn(labels, x)
    place.file(tmp_path / "1.efc")
    place.file(tmp_path / "2.efc")
    shutil.move(tmp_path / "2.efc", tmp_path / "3.efc")
    done = place.forget("part-2", Kind.CLASS)
    assert done.erasure.exports == {"1": "erased", "2": "unreachable"}
    assert not (tmp_path / "1.efc").exists()
    newer = place.file(tmp_path / "1.efc")
    assert "part-2" not in {part.name for part in newer.parts}
    place.file(tmp_path / "1.efc")
    with reading(place.home) as session:
        states = [e.status for e in exports_of(session.store)]
    # The one out of reach stays what it is; of the one that was erased nothing is left to mend.
    assert states == ["replaced", "stale", "replaced", "fresh"]
    assert place.forget("part-5", Kind.CLASS).erasure.exports == {"4": "erased"}
    assert list(tmp_path.glob(".*")) == []


def test_a_merge_is_no_run_and_a_change_on_record(tmp_path: Path) -> None:
    labels, x = taught()
    a = Place.new(tmp_path / "a").learn(labels, x)
    b = Place.new(tmp_path / "b").learn(labels[:40], x[:40]).file(tmp_path / "b.efc")
    a.merge(b)
    with reading(a.home) as session, pytest.raises(RequestError, match="nothing to undo"):
        plan_undo(session.store)


def test_classes_that_were_unlearned_here_are_named_when_they_come_back(tmp_path: Path) -> None:
    labels, x = taught()
    a = Place.new(tmp_path / "a").learn(labels, x)
    b = Place.new(tmp_path / "b").learn(labels, x).file(tmp_path / "b.efc")
    a.forget("part-1", Kind.CLASS)
    assert a.merge(b).again == ["part-1"]


def test_a_class_named_like_a_device_takes_the_name_along_and_not_the_device(
    tmp_path: Path,
) -> None:
    labels, x = taught()
    b = Place.new(tmp_path / "part-2-cam").learn(labels, x)
    assert device_of(b.home).startswith("part-2-cam-")
    place = Place.new(tmp_path / "m")
    place.merge(b.file(tmp_path / "b.efc"))
    place.forget("part-2", Kind.CLASS, verify=True)
    report = place.merge(b.file(tmp_path / "b2.efc"))
    assert report.known == [device_of(b.home)]
    b.learn(labels[:20], x[:20])
    assert place.merge(b.file(tmp_path / "b3.efc")).replaced == [device_of(b.home)]
    assert place.bits() == b.bits()


def test_the_commands(tmp_path: Path) -> None:
    devices, one = spread(tmp_path, "ridge", 2)
    for i, place in enumerate(devices):
        out = build.invoke(
            "export", "contribution", "-o", tmp_path / f"{i}.efc", "-H", place.home.path, "--json"
        )
        assert json.loads(out.stdout)["device"] == device_of(place.home)
    home = Place.new(tmp_path / "m")
    files = [tmp_path / "0.efc", tmp_path / "1.efc"]
    out = json.loads(build.invoke("merge", *files, "-H", home.home.path, "--json").stdout)
    assert sum(out["taken"].values()) == N
    assert home.bits() == one.bits()
    again = build.invoke("merge", *files, "-H", home.home.path).stdout
    assert "nothing is new" in again
    with writing(home.home) as session:
        assert [c.kind for c in changes(session)] == ["merge"]
        assert f"fleet:{device_of(devices[0].home)}" in session.store.n_by_source()
    (tmp_path / "1.efc").write_bytes(b"rubbish")
    with pytest.raises(EdgeclError, match=r"1\.efc is damaged"):
        build.invoke("merge", *files, "-H", home.home.path)


def test_a_poisoned_device_is_taken_back_where_the_governor_is_a_gate(tmp_path: Path) -> None:
    x, y = build.features(500, D, 3)
    labels = [f"part-{c}" for c in y]
    place = Place.new(tmp_path / "a", probes=20).learn(labels, x - 1)
    build.invoke("config", "set", "governor.mode", "gate", "-H", place.home.path)
    wrong = [f"part-{c % 3 + 1}" for c in y]
    bad = Place.new(tmp_path / "b").learn(wrong * 2, np.concatenate([x, x]) - 1)
    bad.file(tmp_path / "b.efc")
    before = place.bits()
    out = build.invoke("merge", tmp_path / "b.efc", "-H", place.home.path, "--json")
    assert json.loads(out.stdout)["state"] == "rolled_back"
    assert place.bits() == before
    with reading(place.home) as session:
        assert foreign(session.store, device_of(bad.home)) is None
        assert set(session.store.n_by_source()) == {"gate"}


def test_from_python(tmp_path: Path) -> None:
    devices, one = spread(tmp_path, "ridge", 2)
    files = [tmp_path / f"{i}.efc" for i in range(2)]
    made = [Device(d.home).contribute(f) for d, f in zip(devices, files, strict=True)]
    merged = Place.new(tmp_path / "m")
    report = Device(merged.home).merge(*files)
    assert report.taken == {c.device: c.count for c in made}
    assert merged.bits() == one.bits()


def changes(session: Any) -> Any:
    from edgecl.store.changes import changes_of

    return changes_of(session.store)

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import build
from edgecl.home import Home


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of the four parts that the taught home never saw; never write to it."""
    return build.part_folder(tmp_path_factory.mktemp("unseen"), 3, start=50)


def predict(home: Path, *arguments: object, stdin: str | None = None) -> list[dict[str, Any]]:
    done = build.run_edgecl("predict", *arguments, "--home", home, "--json", stdin=stdin)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_each_picture_is_one_object_with_ranked_classes(taught_home: Path, unseen: Path) -> None:
    picture = unseen / "washer" / "050.jpg"
    (result,) = predict(taught_home, picture, "--top", 2)
    assert set(result) == {"path", "label", "score", "probability", "top", "state"}
    assert result["path"] == str(picture)
    assert result["label"] == "washer"
    assert [set(entry) for entry in result["top"]] == [{"label", "score", "probability"}] * 2
    best = {name: result[name] for name in ("label", "score", "probability")}
    assert result["top"][0] == best
    assert best["probability"] != best["score"]  # this home has enough samples to calibrate
    assert 1 >= result["top"][0]["score"] >= result["top"][1]["score"] >= 0


def test_an_answer_that_is_not_sure_enough_is_told_as_unsure(
    taught_home: Path, unseen: Path
) -> None:
    sure, unsure = (
        predict(taught_home, unseen / "washer" / "050.jpg", "--min-score", least)[0]
        for least in (0.1, 0.999)
    )
    assert (sure["state"], unsure["state"]) == ("known", "unsure")
    assert sure | {"state": "unsure"} == unsure  # label and score stay
    args = ("predict", unseen / "washer" / "050.jpg", "--home", taught_home)
    done = build.run_edgecl(*args, "--min-score", 0.999)
    assert ": unsure, most like washer" in done.stdout


@pytest.mark.parametrize("is_bundle", [False, True])
def test_a_device_that_only_predicts_tells_the_same_events(
    taught_home: Path, copy_of: Callable[[Path], Path], tmp_path: Path, is_bundle: bool
) -> None:
    folder = build.part_folder(tmp_path / "in", 4, parts=("bolt-m4", "washer"), start=60)
    place: tuple[object, ...] = ("--home", taught_home)
    if is_bundle:
        build.run_edgecl("export", "onnx", "--home", copy_of(taught_home), "-o", tmp_path / "out")
        place = ("--bundle", tmp_path / "out")
    done = build.run_edgecl(
        "predict", folder, *place, "--events", "-", "--vote", 3, "--min-score", 0.1
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]  # and no line for a picture
    assert [(e["label"], e["state"]) for e in events] == [
        ("bolt-m4", "known"),
        ("washer", "known"),
    ]
    assert all(e["votes"] >= 2 and e["of"] == 3 and e["probability"] > 0.1 for e in events)


def test_pictures_of_a_folder_have_no_time_between_them(taught_home: Path, unseen: Path) -> None:
    done = build.run_edgecl("predict", unseen, "--home", taught_home, "--every", "1s")
    assert build.is_refused(done, 2)


def test_a_set_of_labels_is_given_if_asked(taught_home: Path, unseen: Path) -> None:
    (result,) = predict(taught_home, unseen / "washer" / "050.jpg", "--set", 0.9)
    assert result["set"] == ["washer"]
    refused = build.run_edgecl("predict", unseen, "--home", taught_home, "--set", 1.5)
    assert refused.returncode == 2
    assert "--set" in refused.stderr


def test_more_classes_than_there_are_is_all_of_them(taught_home: Path, unseen: Path) -> None:
    (result,) = predict(taught_home, unseen / "washer" / "050.jpg", "--top", 99)
    assert {entry["label"] for entry in result["top"]} == set(build.PARTS)
    assert sum(entry["score"] for entry in result["top"]) == pytest.approx(1)


def test_the_order_given_is_kept_and_a_broken_picture_is_skipped_by_name(
    taught_home: Path, unseen: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8 no picture")
    paths = [unseen / part / "051.jpg" for part in ("washer", "bolt-m4", "gasket", "bracket")]
    given = [*paths[:2], broken, *paths[2:], paths[0]]
    done = build.run_edgecl("predict", *given, "--home", taught_home, "--json")
    assert done.returncode == 0
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["path"] for r in results] == [str(p) for p in given if p != broken]
    assert [r["label"] for r in results] == [p.parent.name for p in given if p != broken]
    assert f"skipped {broken}: " in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_said_of_a_picture_does_not_depend_on_its_company(
    taught_home: Path, unseen: Path
) -> None:
    together = predict(taught_home, unseen)
    assert [r["path"] for r in together] == sorted(str(p) for p in unseen.rglob("*.jpg"))
    (alone,) = predict(taught_home, together[5]["path"])
    assert alone["label"] == together[5]["label"]
    assert alone["score"] == pytest.approx(together[5]["score"], abs=1e-4)


def test_paths_on_stdin_need_no_label(taught_home: Path, unseen: Path) -> None:
    lines = [json.dumps({"path": str(unseen / part / "052.jpg")}) for part in build.PARTS]
    results = predict(taught_home, "-", stdin="\n".join(lines))
    assert [r["label"] for r in results] == list(build.PARTS)


def test_a_file_name_that_is_not_utf8_can_be_predicted(taught_home: Path, tmp_path: Path) -> None:
    picture = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")
    Path(picture).write_bytes(build.encode(build.part_picture("washer", 77)))
    (result,) = predict(taught_home, picture)
    assert (os.fsencode(result["path"]), result["label"]) == (os.fsencode(picture), "washer")


def test_only_broken_pictures_are_status_3(taught_home: Path, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png"):
        (tmp_path / name).write_bytes(b"broken")
    done = build.run_edgecl(
        "predict", tmp_path / "a.jpg", tmp_path / "b.png", "--home", taught_home, "--json"
    )
    assert build.is_refused(done, 3)
    assert "no picture could be predicted, skipped: 2" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_home_that_learned_nothing_is_status_3_and_says_what_to_do(
    command: str, home: Home, unseen: Path
) -> None:
    done = build.run_edgecl(command, unseen, "--home", home.path, "--json")
    assert build.is_refused(done, 3)
    assert "edgecl train-stream" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_a_missing_source_or_home_is_status_3(
    command: str, taught_home: Path, tmp_path: Path, unseen: Path
) -> None:
    done = build.run_edgecl(command, tmp_path / "nowhere.jpg", "--home", taught_home)
    assert done.returncode == 3
    assert "does not exist" in done.stderr
    done = build.run_edgecl(command, unseen, "--home", tmp_path / "nowhere")
    assert done.returncode == 3
    assert "edgecl init" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [(), ("x.jpg", "--top", "0"), ("x.jpg", "--best")])
def test_a_wrong_call_is_status_2(arguments: tuple[str, ...], taught_home: Path) -> None:
    done = build.run_edgecl("predict", *arguments, "--home", taught_home)
    assert build.is_refused(done, 2)
    assert "Traceback" not in done.stderr


def test_a_changed_engine_is_status_4(
    taught_home: Path, copy_of: Callable[[Path], Path], unseen: Path
) -> None:
    home = copy_of(taught_home)
    engine = home / "engine" / "backbone.onnx"
    data = bytearray(engine.read_bytes())
    data[1000] ^= 0x80
    engine.write_bytes(data)
    done = build.run_edgecl("predict", unseen, "--home", home, "--json")
    assert build.is_refused(done, 4)
    assert "SHA-256" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_evaluate_reports_numbers_that_fit_together(
    taught_home: Path, unseen: Path, tmp_path: Path
) -> None:
    folder = build.part_folder(tmp_path / "labelled", 2, start=60)
    (folder / "never-learned").mkdir()
    (folder / "never-learned" / "a.jpg").write_bytes(build.encode(build.part_picture("washer", 90)))
    (folder / "washer" / "broken.jpg").write_bytes(b"broken")
    database = (taught_home / "device.db").read_bytes()
    done = build.run_edgecl("evaluate", folder, "--home", taught_home, "--json")
    result = build.last_json(done)
    assert set(result) == {
        "accuracy", "n", "per_class", "confusion", "skipped", "seen", "passed_over",
    }  # fmt: skip
    assert (result["n"], result["skipped"]) == (9, 1)
    assert result["accuracy"] == pytest.approx(8 / 9)
    assert result["per_class"] == dict.fromkeys(build.PARTS, 1.0) | {"never-learned": 0.0}
    assert result["confusion"]["never-learned"] == {"washer": 1}
    assert sum(sum(row.values()) for row in result["confusion"].values()) == 9
    assert "never-learned" in done.stderr
    assert (taught_home / "device.db").read_bytes() == database


def test_evaluate_takes_a_label_and_a_limit(taught_home: Path, unseen: Path) -> None:
    words = ("evaluate", unseen / "washer", "--home", taught_home, "-l", "washer", "-n", 2)
    result = build.last_json(build.run_edgecl(*words, "-j"))
    assert (result["n"], result["skipped"], result["accuracy"]) == (2, 0, 1.0)


def test_evaluate_without_any_label_is_status_3(taught_home: Path, unseen: Path) -> None:
    done = build.run_edgecl("evaluate", unseen / "washer", "--home", taught_home, "--json")
    assert build.is_refused(done, 3)
    assert "has a label" in done.stderr

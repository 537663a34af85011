"""Pictures that a browser sends."""

from __future__ import annotations

import pytest

pytest.importorskip("uvicorn", reason="the extra web is not installed: uvicorn")
pytest.importorskip("starlette", reason="the extra web is not installed: starlette")

from asking import Site
from patience import until

import build
from edgecl.errors import HomeLockedError


def send(site: Site, part: str, i: int, query: str = "", format: str = "JPEG"):
    data = build.encode(build.part_picture(part, i), format)
    headers = {"Content-Type": f"image/{format.lower()}"}
    return site.ask("POST", f"/api/v1/frames{query}", data, headers=headers)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_picture_is_answered_by_the_stream(site: Site, format):
    found = send(site, "bracket", 300, format=format).json
    assert found["source"] == "browser"
    assert found["top"][0][0] == "bracket"
    assert found["taught"] is None


def test_a_picture_with_a_label_is_learned_and_can_be_taken_back(own_site: Site):
    for i in range(3):
        assert send(own_site, "washer", 310 + i, "?label=washer").json["taught"] == "washer"
    assert send(own_site, "washer", 320).json["top"][0][0] == "washer"
    # What of the camera waits for review has the class as a guess.
    learned = own_site.get("samples?class=washer&role=learned")
    assert {one["source"] for one in learned} == {"browser"}
    done = own_site.post("undo", {"uids": [one["uid"] for one in learned]})
    assert done == {"undone": len(learned)}
    assert "washer" not in [one["name"] for one in own_site.get("classes")]


def test_a_new_name_that_looks_like_a_known_one_is_asked_about(own_site: Site):
    refused = send(own_site, "washer", 1, "?label=Bolt-M4")
    assert (refused.status, refused.json["alike"]) == (409, "bolt-m4")
    assert send(own_site, "washer", 1, "?label=Bolt-M4&new=1").json["taught"] == "Bolt-M4"
    # It is answered, then learned.
    assert until(lambda: "Bolt-M4" in [one["name"] for one in own_site.get("classes")])


def test_more_pictures_than_can_wait_leave_nothing_behind(site: Site):
    serving = site.stream.serving
    picture = build.encode(build.part_picture("washer", 1), "JPEG")
    asked, n_refused = [], 0
    for _ in range(200):
        try:
            asked.append(serving.see(picture))
        except HomeLockedError:
            n_refused += 1
    assert n_refused
    for answer in asked:
        assert answer.result(90)["source"] == "browser"
    gone = serving.live.answer_to("no frame has this id")
    gone.cancel()
    assert not serving.live._asked


def test_a_class_that_was_forgotten_can_be_taught_anew(own_site: Site):
    asked = {"kind": "class", "name": "bracket", "confirm": "bracket"}
    job = own_site.post("forget", asked, 202)["request"]
    assert until(lambda: own_site.get(f"requests/{job}")["state"] == "done")
    for i in range(2):  # and again, though it was named on the page
        assert send(own_site, "bracket", 500 + i, "?label=bracket").json["taught"] == "bracket"
    assert own_site.stream.serving.meant == {"bracket"}


def test_pictures_come_at_once_and_each_gets_its_own_answer(site: Site):
    from concurrent.futures import ThreadPoolExecutor

    parts = [build.PARTS[i % 2] for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda i: send(site, parts[i], 400 + i).json, range(6)))
    assert [one["top"][0][0] for one in found] == parts
    assert len({one["frame"] for one in found}) == 6

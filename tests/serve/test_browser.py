"""What a page sends is seen once, and not behind the back of who gave up."""

from __future__ import annotations

import build
from edgecl.serve.browser import BrowserSource, new_id

PICTURE = build.encode(build.part_picture("washer", 1))


def test_a_picture_whose_sender_has_gone_is_not_learned() -> None:
    source = BrowserSource()
    frames = source.frames()
    waits = True
    source.put(PICTURE, "washer", frame_id=new_id(), is_wanted=lambda: waits)
    waits = False
    kept = new_id()
    source.put(PICTURE, "washer", frame_id=kept)
    assert next(frames).id == kept
    assert (source.counts.received, source.counts.dropped) == (2, 1)
    source.close()
    assert list(frames) == []

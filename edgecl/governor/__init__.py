"""Every change of a home is judged: the same pictures, answered before and after (decision 0020).

    verdicts.py   who is a witness, and which witnesses are right
    judge.py      what their answers prove
    record.py     rows of changes: settings, exports, unlearnings
    words.py      a change in words

What opens, closes and takes back a change is edgecl/governed.py, which may use the unlearning.
"""

"""What is said of pictures: the head's prediction, and what else was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgecl.errors import RequestError
from edgecl.explain import Explainer
from edgecl.home import Home
from edgecl.novelty import open_novelty
from edgecl.runtime.engines.base import AS_SET, EngineOptions
from edgecl.runtime.novelty import Novelty
from edgecl.runtime.predictor import Predictor
from edgecl.runtime.pretrained import Pretrained, hint_json
from edgecl.session import Session, reading
from edgecl.types import Float32, state_of


class Answers:
    """Answers for features, as of one state of a home, or of a bundle.

    Args:
        predictor: What predicts.
        novelty: Says of each whether it is unknown; None says nothing of it.
        pretrained: Guesses what each looks like though it was never taught; None guesses nothing.
        takes_guess: Where nothing taught comes near, the guess is the label, and `taught` false.
        explainer: Says why; None does not.
        min_score: An answer of a lower probability has the state `unsure`.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        novelty: Novelty | None = None,
        pretrained: Pretrained | None = None,
        takes_guess: bool = False,
        explainer: Explainer | None = None,
        min_score: float = 0.0,
    ) -> None:
        self.predictor = predictor
        self._novelty, self._pretrained, self._explainer = novelty, pretrained, explainer
        self._takes_guess, self._min_score = takes_guess, min_score

    def of(
        self, names: Sequence[str], x: Float32, *, top: int = 3, level: float | None = None
    ) -> list[dict[str, Any]]:
        """Return what `edgecl predict --json` prints of features (N, M), as the engine gives them.

        Args:
            names: What the pictures are called (N,).
            x: Their features.
            top: How many classes to name.
            level: How often the set of labels of each shall hold the truth; None gives no sets.
        """
        n_named = max(top, 2) if self._explainer is not None else top
        found = self.predictor.predict_features(names, x, top=n_named, level=level)
        plain = x[:, : x.shape[1] // self.predictor.scorer.n_maps]
        lines = [one.as_json() for one in found]
        for line in lines:
            del line["top"][top:]
        if self._novelty is not None:
            for line, score in zip(lines, self._novelty.scores(plain).tolist(), strict=True):
                line |= self._novelty.verdict(score)
        for line in lines:
            is_unknown = line.get("unknown", False)
            line["state"] = state_of(line["probability"], self._min_score, is_unknown=is_unknown)
        if self._pretrained is not None:
            for line, guesses in zip(lines, self._pretrained.guesses(plain), strict=True):
                line |= hint_json(guesses)
                if self._takes_guess and line.get("unknown"):
                    name, share = guesses[0]
                    line |= {"label": name, "score": share, "taught": False}
                    del line["probability"]  # of the head's label, which this is not
        if self._explainer is not None:
            for line, one, row in zip(lines, found, plain, strict=True):
                line["why"] = self._explainer.explain(row, [name for name, _ in one.top])
        return lines


def open_answers(
    home: Home,
    options: EngineOptions = AS_SET,
    *,
    unknown: bool = False,
    hint: bool = False,
    explain: bool = False,
    min_score: float | None = None,
) -> Answers:
    """Open all that answers for a home, of one state of its store; it does not follow the home.

    Args:
        home: The home. Its setting `head.pretrained` lets what was never taught answer, too.
        options: How its engine runs.
        unknown: Whether to say of each whether it is unknown.
        hint: Whether to say what each looks like to the classifier that the weights came with.
        explain: Whether to say why.
        min_score: An answer of a lower probability is `unsure`; None takes the setting.

    Raises:
        NothingLearnedError: The home knows no class.
        RequestError: Too little is kept to tell what is unknown, or the weights came without a
            classifier that is known.
    """
    takes_guess = home.config.head.pretrained
    pretrained = home.pretrained() if hint or takes_guess else None
    if pretrained is None and (hint or takes_guess):
        raise RequestError(
            f"the backbone of {home.path} has no classifier of its own with named classes (weights "
            "of --weights FILE and features of --features have none, nor have homes of an older "
            "edgecl); leave out "
            + ("--hint" if hint else "head.pretrained, or make the home anew with `edgecl init`")
        )
    with reading(home, options) as session:
        return Answers(
            session.predictor(),
            novelty=_novelty(session) if unknown or takes_guess else None,
            pretrained=pretrained,
            takes_guess=takes_guess,
            explainer=Explainer(session) if explain else None,
            min_score=home.config.live.min_score if min_score is None else min_score,
        )


def _novelty(session: Session) -> Novelty:
    return open_novelty(session.store, session.learner.head)

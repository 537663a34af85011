"""An open home: its store, the learner that works on it, its engines, and what it serves.

Whoever works on a home opens a session: `reading` here, `writing` in edgecl/unlearning/request.py,
which first finishes what was left undone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from typing import Literal

import numpy as np
from PIL import Image

from edgecl.calibration import calibration_of, kept_calibration, left_out_of
from edgecl.errors import (
    DecodeError,
    FeatureMapError,
    IntegrityError,
    NothingLearnedError,
    RequestError,
)
from edgecl.heads import HEADS, check_head, head_config, make_head_of, spec_of
from edgecl.heads.leave_one_out import LeaveOneOut
from edgecl.home import Home
from edgecl.learner import Learner
from edgecl.runtime.adapters import Adapter
from edgecl.runtime.calibration import Calibration
from edgecl.runtime.engines.base import AS_SET, EngineOptions
from edgecl.runtime.engines.onnx import OnnxEngine
from edgecl.runtime.pipeline import Embedded, embed
from edgecl.runtime.predictor import Predictor
from edgecl.runtime.preprocess import Preprocessing, decode
from edgecl.runtime.scoring import Arrays, MaskedScorer, Scorer, load_scorer
from edgecl.store.adapters import adapter_rows, mixed_with, task_adapters
from edgecl.store.ledger import check_not_older
from edgecl.store.store import Store, describe, why_empty
from edgecl.store.table import Role
from edgecl.store.vault import Vault
from edgecl.types import Float32, Frame, Say

_EMBED_CHUNK = 512


class Session:
    """An open home. What it holds is made when it is first asked for.

    Args:
        home: The home; of one that is written to, the caller holds the lock.
        store: Its open store.
        options: How its engines run.
    """

    def __init__(self, home: Home, store: Store, options: EngineOptions = AS_SET) -> None:
        self.home = home
        self.store = store
        self.options = options
        self._left_out: tuple[object, LeaveOneOut | None] | None = None

    @cached_property
    def learner(self) -> Learner:
        """The learner of the home's head."""
        return open_learner(self.home, self.store)

    @cached_property
    def engine(self) -> OnnxEngine:
        """The plain engine, whose features the head learns."""
        return self.home.engine(options=self.options)

    def check_provider(self) -> None:
        """Check that engines can run as the options say.

        Raises:
            ProviderError: The named provider is not in use.
        """
        _ = self.engine

    @cached_property
    def adapted_engine(self) -> OnnxEngine:
        """The engine that takes adapters."""
        return self.home.engine(takes_adapters=True, options=self.options)

    def served(self) -> tuple[Scorer, tuple[Adapter, ...]]:
        """Return what predicts: the exact head, mixed with heads of adapters, and those adapters.

        Without adapters the head alone is served, on plain features.

        Raises:
            NothingLearnedError: The home knows no class.
        """
        with self.store.snapshot():
            check_learned(self.home, self.store)
            mixed, adapters = mixed_with(self._exact(), task_adapters(self.store), self.store.names)
            return self._masked(mixed), adapters

    def exact_scorer(self) -> Scorer:
        """Return the exact head alone; a class that is being unlearned is not named."""
        with self.store.snapshot():
            return self._masked(self._exact())

    def predictor(self) -> Predictor:
        """Load all that prediction needs; it does not follow the store.

        Raises:
            NothingLearnedError: The home knows no class.
        """
        scorer, adapters = self.served()
        engine = self.home.engine(adapters, options=self.options)
        return Predictor.of(
            engine,
            self.home.manifest.preprocessing,
            scorer,
            self.calibration(),
            max_pixels=self.home.max_pixels,
        )

    def calibration(self, *, is_exact: bool = False) -> Calibration | None:
        """Return how far what is served can be believed, or None where nothing says it.

        Kept with the head's weights, or computed anew where they are out of date.

        Args:
            is_exact: Ask for the exact head, also where adapters are mixed into it.
        """
        with self.store.snapshot():
            is_mixed = not is_exact and any(row.is_served for row in adapter_rows(self.store))
            kept = self._kept_head()
            found, is_current = kept_calibration(self.store, kept, is_mixed=is_mixed)
            if not is_current:
                found = calibration_of(self.store, self.learner.head, is_mixed=is_mixed)
            if found is None:
                return None
            blocked = {self.store.names[uid] for uid in self.store.blocked_classes()}
            return found.only(tuple(label for label in found.labels if label not in blocked))

    def leave_one_out(self) -> LeaveOneOut | None:
        """Return what the exact head would say of each kept sample, had it not learned it.

        Classes that are being unlearned are left out. Computed once for a state of the store
        (2,000 rows of 1,752 features: under a second), and kept nowhere else.

        Returns:
            None if the head has no closed form of it, or learned nothing.
        """
        blocked = self.store.blocked_classes()
        key = (self.store.version, self.store.loads, blocked)
        if self._left_out is None or self._left_out[0] != key:
            self._left_out = key, left_out_of(self.store, self.learner.head, blocked)
        return self._left_out[1]

    def leave_out(self, by: Literal["source", "day"]) -> dict[int, LeaveOneOut] | None:
        """Return what it would say of the kept samples of each source, or day, had it seen none.

        Only kept samples are left out: where a source has more that were learned
        (`Store.n_by_source`), the others still count, and this is a bound from above.

        Args:
            by: What is left out together: samples of a source, or of a day (UTC).

        Returns:
            By uid of the source, or number of the day since 1970; None as `leave_one_out`.
        """
        origins = self.store.origins(Role.REPLAY)
        found = {o.uid: o.source_uid if by == "source" else int(o.time // 86400) for o in origins}
        blocked = self.store.blocked_classes()
        whole = left_out_of(self.store, self.learner.head, blocked, found)
        if whole is None:
            return None
        group = np.array([found[uid] for uid in whole.uids.tolist()], dtype=np.int64)
        return {g: whole.only(group == g) for g in np.unique(group).tolist()}

    def embed(
        self,
        engine: OnnxEngine,
        uids: Sequence[int],
        picture: Callable[[int], bytes],
        say: Say = lambda what, done, of: None,
    ) -> Float32:
        """Return the features (N, M) of pictures that the home keeps, as the engine gives them.

        Args:
            engine: An engine of the home, or one that was made of it.
            uids: Uids of their samples (N,).
            picture: Gives the encoded picture of a uid.
            say: Told about progress.

        Raises:
            IntegrityError: A picture cannot be decoded.
        """
        features: list[Float32] = []
        for start in range(0, len(uids), _EMBED_CHUNK):
            say("embedding", start, len(uids))
            # Read here, not in the pipeline's thread: a connection belongs to its thread.
            frames = [
                Frame(id=str(uid), encoded=picture(uid))
                for uid in uids[start : start + _EMBED_CHUNK]
            ]
            groups = embed(
                iter(frames),
                self.home.manifest.preprocessing,
                engine,
                batch_size=self.home.config.engine.batch_size,
                max_pixels=self.home.max_pixels,
            )
            with closing(groups):
                for item in (item for group in groups for item in group):
                    if not isinstance(item, Embedded):
                        raise IntegrityError(
                            f"the kept picture of sample {item.id} cannot be used "
                            f"({item.reason}); restore the home from a backup"
                        )
                    features.append(item.feature)
        say("embedding", len(uids), len(uids))
        return np.array(features, dtype=np.float32).reshape(len(uids), engine.num_features)

    def kept_image(self, uid: int, data: bytes) -> Image.Image:
        """Decode a picture that the home keeps.

        Args:
            uid: Uid of its sample, for the error.
            data: Its encoded bytes.

        Raises:
            IntegrityError: It cannot be decoded.
        """
        try:
            how = self.home.manifest.preprocessing
            return decode(data, max_pixels=self.home.max_pixels, least_side=how.least_side)
        except DecodeError as error:
            raise IntegrityError(
                f"the kept picture of sample {uid} cannot be used ({error}); restore the home "
                "from a backup"
            ) from error

    def _exact(self) -> Scorer:
        """Return the exact head as it predicts: kept weights, or built from the store anew.

        Weights are kept at the end of every run; they are out of date only after a run that was
        killed, or while another process learns.
        """
        _check_head(self.home, self.store)
        kept = self._kept_head()
        if kept is not None:
            scorer = load_scorer(kept, self._names(kept))
        else:
            head = make_head_of(
                self.home.config.head, self.store.num_features, codebook=self.store.codebook
            )
            head.restore(self.store.all_moments(), self.store.load_head("state", head.name))
            scorer = head.scorer(self.store.names)
        return scorer

    def _kept_head(self) -> Arrays | None:
        return self.store.load_head("scorer", self.home.config.head.name)

    def _names(self, kept: Arrays) -> tuple[str, ...]:
        return tuple(self.store.names[int(uid)] for uid in kept["classes"])

    def _masked(self, scorer: Scorer) -> Scorer:
        blocked = tuple(self.store.names[uid] for uid in self.store.blocked_classes())
        return MaskedScorer(scorer, blocked) if blocked else scorer


@contextmanager
def reading(home: Home, options: EngineOptions = AS_SET) -> Iterator[Session]:
    """Open a home to read: one state of its store, whatever another process commits meanwhile.

    Raises:
        FeatureMapError: See `open_store`.
        IntegrityError: See `open_store`.
    """
    with open_store(home, read_only=True) as store, store.snapshot():
        yield Session(home, store, options)


def open_store(home: Home, *, read_only: bool = False, may_be_older: bool = False) -> Store:
    """Open a home's store; its feature map must be the engine's.

    Commands that write do it through `unlearning.request.writing`, which unlearns again what an
    older copy of the store still holds. Keys of unlearned classes, which an older key file brings
    back, are destroyed again.

    Args:
        home: The home.
        read_only: Open without the right to change anything.
        may_be_older: Open also an older copy than the home's receipts.

    Raises:
        ConfigError: The settings name a head or an option that there is not.
        FeatureMapError: The store was made under another frozen map.
        IntegrityError: It is an older copy and may hold what was unlearned; or it is sealed, and
            its key file is missing or lacks a key.
    """
    check_head(home.config.head, home.settings)
    config = home.config.store
    store = Store(
        home.database,
        capacity_samples=config.capacity_samples,
        capacity_bytes=int(config.capacity_mb * 1e6),
        read_only=read_only,
        vault=Vault(home.class_keys, home.key) if home.class_keys.exists() else None,
    )
    expected = home.manifest.feature_map
    if store.feature_map != expected:
        store.close()
        raise FeatureMapError(
            f"the store of {home.path} was learned under feature map {store.feature_map[:12]}..., "
            f"its engine gives {expected[:12]}...; restore the engine that belongs "
            "to it, or start anew with `edgecl init --force`"
        )
    try:
        if not may_be_older:
            check_not_older(home.ledger, store)
        if not read_only:
            for class_uid in store.revived_keys():
                store.destroy_key(class_uid)
    except BaseException:
        store.close()
        raise
    return store


def open_learner(home: Home, store: Store, *, head: str | None = None) -> Learner:
    """Make the learner of a home; the caller holds the home's lock.

    Args:
        home: The home.
        store: Its open store.
        head: Name of another head than the home's; possible while nothing was learned.

    Raises:
        RequestError: Another head, and classes were learned already.
    """
    name = head or home.config.head.name
    if name != home.config.head.name:
        if store.names:
            raise RequestError(
                f"this home learns with the head {home.config.head.name}; {name} needs a home of "
                f"its own: `edgecl init --head {name} --home DIR`"
            )
        spec = spec_of(name)
        if spec.statistic.needs_keys:
            raise RequestError(
                f"the head {name} needs keys, which are made with its home: "
                f"`edgecl init --head {name} --home DIR`"
            )
        config = head_config(name, seed=home.config.head.seed)
        made = make_head_of(config, store.num_features)
        with store.transaction():
            store.set_second_moment(spec.statistic.name)
        home.save_head(config)
    else:
        _check_head(home, store)
        made = make_head_of(home.config.head, store.num_features, codebook=store.codebook)
    how: Preprocessing = home.manifest.preprocessing
    return Learner(
        store,
        made,
        seed=home.config.head.seed,
        shrink_to=how.resize_side if home.config.store.picture == "backbone" else None,
        max_pixels=home.max_pixels,
        probes=home.config.evaluation.probes,
        probe_side=how.resize_side,
        least_side=how.least_side,
    )


def open_predictor(home: Home, options: EngineOptions = AS_SET) -> Predictor:
    """Load all that prediction in a home needs; it does not follow the home.

    Raises:
        NothingLearnedError: The home knows no class.
    """
    with reading(home, options) as session:
        return session.predictor()


def check_learned(home: Home, store: Store) -> None:
    """Check that the home knows a class.

    Raises:
        NothingLearnedError: It knows none.
    """
    if not store.names:
        raise NothingLearnedError(
            f"the home {home.path} {why_empty(describe(store))}; it learns with `edgecl "
            f"train-stream SOURCE --home {home.typed}`"
        )


def _check_head(home: Home, store: Store) -> None:
    """Check that the settings name the head with which the store was learned."""
    name = home.config.head.name
    if HEADS[name].statistic.name != store.second_moment:
        raise IntegrityError(
            f"edgecl.toml names the head {name}, the store of {home.path} was learned with "
            "another; put the head back that it was made with"
        )

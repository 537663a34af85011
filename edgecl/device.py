"""A device in Python: a home, and a call for everything that is done with one.

    from edgecl import Device

    device = Device.open("edgecl-home")
    device.learn("photos")
    print(device.predict("picture.jpg").label)
    device.forget("mug", reason="asked for by its owner")

A command of the command line is one of these calls with words around it. Calls that write hold the
home's lock while they run, and first finish what an earlier process left undone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgecl.adapters.training import Progress as Epoch
from edgecl.answers import open_answers
from edgecl.consolidation.plan import plan_of
from edgecl.consolidation.run import Consolidated, chosen, consolidate, training_of
from edgecl.evaluation.metrics import Evaluation
from edgecl.evaluation.report import Report, write_report
from edgecl.evaluation.score import evaluate_stream
from edgecl.exporters.bundle import Exported, export_bundle
from edgecl.exporters.precision import Options
from edgecl.exporters.setup import Setup, set_up
from edgecl.fleet import collect
from edgecl.fleet.contribution import Contribution, read_all
from edgecl.fleet.take import Report as Taken
from edgecl.fleet.take import take as take_in
from edgecl.governed import governed, note_undone, take_back
from edgecl.home import Home
from edgecl.learning import Given, learning
from edgecl.lessons import unteach
from edgecl.mending import Done, hold_out, merge_classes, relabel, undo
from edgecl.runtime.engines.base import AS_SET, EngineOptions
from edgecl.runtime.predictor import Predictor
from edgecl.runtime.sources import open_source
from edgecl.session import open_predictor, reading
from edgecl.snapshots import rollback, take
from edgecl.store.changes import Change, changes_of
from edgecl.store.listing import Listed, list_samples
from edgecl.store.snapshots import Snapshot
from edgecl.store.table import Role
from edgecl.stream.position import start_position
from edgecl.stream.progress import Progress
from edgecl.types import ForgetRequest, Kind, Pixels, Prediction, Say, clean_label
from edgecl.unlearning.request import Unlearned, forget, writing


def _silent(what: str, done: int, of: int) -> None:
    pass


class Device:
    """A home and how its engines run.

    Args:
        home: The home.
        options: How its engines run; None takes its settings.
    """

    def __init__(self, home: Home, options: EngineOptions = AS_SET) -> None:
        self.home = home
        self.options = options
        self._predictor: Predictor | None = None

    @classmethod
    def open(cls, path: str | Path, options: EngineOptions = AS_SET) -> Device:
        """Open a home.

        Raises:
            RequestError: There is none.
            IntegrityError: A part is missing or was changed.
        """
        return cls(Home(Path(path)), options)

    @classmethod
    def make(cls, path: str | Path, setup: Setup | None = None, *, force: bool = False) -> Device:
        """Make a home; see `set_up`."""
        return cls(set_up(Path(path), setup or Setup(), force=force))

    def learn(
        self,
        source: str | None,
        *,
        label: str | None = None,
        limit: int | None = None,
        shuffle_seed: int | None = None,
        resume: bool = False,
        every_s: float | None = None,
        tell: Callable[[Progress], None] = lambda progress: None,
    ) -> Progress:
        """Learn a source in one pass; every frame is predicted before it is learned.

        Args:
            source: Folder, table, camera, stream: as `edgecl train-stream` takes it; None means the
                sources that the settings name.
            label: Class of all frames, instead of what the source says.
            limit: Most frames to take.
            shuffle_seed: Visit them in the random order of this seed.
            resume: Go on where the last run stopped.
            every_s: Of a film or camera, take a frame only every so many seconds.
            tell: Told how far it is, after every commit.

        Returns:
            What became of the frames.

        Raises:
            SourceError: The source cannot be opened.
            HomeLockedError: Another process writes to the home.
        """
        home = self.home
        given = Given(source, label, shuffle_seed, every_s)
        frames = given.open(home)
        self._predictor = None
        with writing(home, self.options) as session:
            key = given.key(home)
            start = start_position(home, session.learner, frames, key, resume=resume)
            with learning(session, frames, key=key, start=start, limit=limit) as (run, _):
                for progress in run:
                    tell(progress)
        return progress

    def predict(self, picture: str | Path | Pixels, *, top: int = 3) -> Prediction:
        """Predict a picture by the head; it is loaded once, and again after this object wrote.

        `answer` says more.

        Args:
            picture: Path of a picture file, or RGB pixels (H, W, 3), uint8.
            top: How many classes to name.

        Raises:
            NothingLearnedError: The home knows no class.
            DecodeError: It is no picture.
        """
        if self._predictor is None:
            self._predictor = open_predictor(self.home, self.options)
        return self._predictor.predict(picture, top=top)

    def answer(
        self,
        picture: str | Path | Pixels,
        *,
        top: int = 3,
        level: float | None = None,
        unknown: bool = False,
        hint: bool = False,
        explain: bool = False,
    ) -> dict[str, Any]:
        """Return all that `edgecl predict --json` says of a picture; opened anew for every call.

        Args:
            picture: Path of a picture file, or RGB pixels (H, W, 3), uint8.
            top: How many classes to name.
            level: How often the set of labels shall hold the truth; None gives no set.
            unknown: Say whether it looks like nothing that was learned.
            hint: Say what it looks like to the classifier that the weights came with.
            explain: Name the kept samples that are nearest.

        Raises:
            NothingLearnedError: The home knows no class.
            DecodeError: It is no picture.
            RequestError: Something is asked for that this home cannot say.
        """
        answers = open_answers(self.home, self.options, unknown=unknown, hint=hint, explain=explain)
        name, x = answers.predictor.embed(picture)
        return answers.of([name], x, top=top, level=level)[0]

    def evaluate(self, source: str) -> Evaluation:
        """Measure accuracy on a labelled source; nothing is learned.

        Raises:
            NothingLearnedError: The home knows no class.
            SourceError: The source cannot be opened.
        """
        frames = open_source(source, max_bytes=self.home.max_bytes)
        with reading(self.home, self.options) as session:
            predictor: Predictor = session.predictor()
            aliases: Mapping[str, str] = session.store.aliases()
        return evaluate_stream(
            predictor, frames, batch_size=self.home.config.engine.batch_size, aliases=aliases
        )

    def consolidate(
        self,
        *,
        recipe: str | None = None,
        epochs: int | None = None,
        minutes: float | None = None,
        weights: str | None = None,
        say: Say = _silent,
        tell: Callable[[Epoch], None] = lambda epoch: None,
        step: Callable[[str], None] = lambda text: None,
    ) -> Consolidated:
        """Train an adapter with its head on the kept pictures; taken unless it makes things worse.

        Args:
            recipe: Name of the recipe; None takes the settings'.
            epochs: Times that every kept picture is looked at; None takes the settings'.
            minutes: Train fewer epochs if more would take longer than this.
            weights: The file that the home was made from, if it was a file.
            say: Told what is going on, how far it is, and of how much.
            tell: Told after every epoch.
            step: Told what begins now.

        Raises:
            RequestError: Nothing new was learned, or too little is kept.
            MissingPackageError: The extra `torch` is not installed.
        """
        from edgecl.exporters.adapting import backbone_to_train

        home = chosen(self.home, recipe=recipe, epochs=epochs)
        self._predictor = None
        with writing(home, self.options) as session:
            plan_of(session)  # what cannot be done is said before torch is loaded
            backbone = backbone_to_train(session, weights, tell=step)
            training = training_of(home, minutes=minutes)
            return consolidate(session, backbone, training=training, say=say, tell=tell)

    def forget(
        self,
        name: str,
        *,
        kind: Kind = Kind.CLASS,
        reason: str = "",
        verify: bool = False,
        say: Say = _silent,
    ) -> Unlearned:
        """Remove a class, a sample or a source for good; see `unlearning.request.forget`.

        Args:
            name: Name of the class, number of the sample or text of the source.
            kind: What the name is of.
            reason: Kept in the receipt; it must not name the class.
            verify: Audit the result, and look for its bytes in every file of the home.
            say: Told about progress.
        """
        request = ForgetRequest(name, reason, kind=kind)
        self._predictor = None
        with writing(self.home, self.options) as session:
            return forget(self.home, session.learner, request, verify=verify, say=say)

    def snapshot(self) -> Snapshot:
        """Keep what is learned now, for `rollback`.

        Raises:
            RequestError: Nothing was learned, or no snapshots are to be kept.
        """
        with writing(self.home, self.options) as session:
            return take(self.home, session.store)

    def rollback(self, uid: int) -> Snapshot:
        """Bring back what was learned at a snapshot; what was learned since is deleted.

        Raises:
            RequestError: There is no such snapshot.
        """
        self._predictor = None
        with writing(self.home, self.options) as session, governed(session, "rollback"):
            return rollback(self.home, session.learner, uid)

    def changes(self) -> list[Change]:
        """Return what was done to the home, oldest first; see `edgecl changes`."""
        with reading(self.home, self.options) as session:
            return changes_of(session.store)

    def take_back(self, uid: int) -> Change:
        """Take one change back, by its number.

        Raises:
            RequestError: There is no such change, or no way back.
        """
        self._predictor = None
        with writing(self.home, self.options) as session:
            return take_back(session, uid)

    def samples(
        self,
        *,
        label: str | None = None,
        source: str | None = None,
        since: float | None = None,
        role: Role | None = None,
        limit: int | None = None,
    ) -> list[Listed]:
        """Return samples that have a row, the newest first.

        Args:
            label: Only of the class with this name or alias.
            source: Only from this source.
            since: Only what was taken at this time or later, seconds since the epoch.
            role: Only learned, held out, or waiting ones.
            limit: Most samples.

        Raises:
            UnknownClassError: There is no such class.
        """
        with reading(self.home, self.options) as session:
            found, _ = list_samples(
                session.store, label=label, source=source, since=since, role=role, limit=limit
            )
        return found

    def relabel(self, uids: Sequence[int], name: str) -> Done:
        """Give samples another class, as if they had been learned under it; see `mending`.

        Raises:
            RequestError: One is not there, or all are of that class already.
        """
        self._predictor = None
        with writing(self.home, self.options) as session, governed(session, "relabel"):
            return relabel(self.home, session.learner, uids, clean_label(name))

    def unteach(self, uids: Sequence[int]) -> int:
        """Take samples back, as if they had never been learned; returns how many.

        Raises:
            RequestError: One is not there; nothing was changed.
        """
        self._predictor = None
        with writing(self.home, self.options) as session:
            return unteach(session.learner, uids)

    def merge_classes(self, of: str, to: str) -> Done:
        """Make all samples of a class those of another, and its name an alias of that.

        Raises:
            UnknownClassError: There is no such class.
            RequestError: Both names are of one class.
        """
        self._predictor = None
        with writing(self.home, self.options) as session, governed(session, "merge-classes"):
            return merge_classes(self.home, session.learner, of, to)

    def contribute(self, output: str | Path) -> Contribution:
        """Write what this home learned itself into a file that `merge` takes in elsewhere.

        Raises:
            RequestError: The store is sealed, or its head learns by gradient.
        """
        with writing(self.home, self.options) as session:
            collect.export(session, Path(output), *(made := collect.collect(session)))
        return made[0]

    def merge(self, *files: str | Path) -> Taken:
        """Take in what other devices learned, exactly, each as a source `fleet:DEVICE`.

        Raises:
            EdgeclError: One is damaged, or does not add up to this home; nothing was changed.
        """
        self._predictor, found = None, read_all(map(Path, files))
        with writing(self.home, self.options) as session, governed(session, "merge"):
            return take_in(session, found)

    def hold_out(self, uids: Sequence[int]) -> Done:
        """Hold learned samples out to test on, as if they had never been learned; see `mending`.

        Raises:
            RequestError: One is not kept, or nothing learned would be left of its class.
        """
        self._predictor = None
        with writing(self.home, self.options) as session, governed(session, "hold-out"):
            return hold_out(self.home, session.learner, uids)

    def undo(self) -> Done:
        """Take back the last run: what it learned, named, moved or held out, and its position.

        Raises:
            RequestError: There is nothing to take back.
        """
        self._predictor = None
        with writing(self.home, self.options) as session:
            plan, done = undo(self.home, session.learner)
            note_undone(session, plan.run.uid, done.receipt_id)
        return done

    def export(
        self, output: str | Path, options: Options | None = None, *, say: Say = _silent
    ) -> Exported:
        """Write engine, head and adapters into a folder that predicts without the home.

        Args:
            output: A new or empty folder, or a bundle of this home, which is replaced.
            options: Precision and form; None takes the engine as it is.
            say: Told about progress.
        """
        with writing(self.home, self.options) as session:
            scorer, adapters = session.served()
            return export_bundle(
                self.home, session.store, scorer, adapters, Path(output), options, say=say
            )

    def report(self, output: str | Path) -> Report:
        """Write what the home knows, and whether it still does, as a page for the browser."""
        return write_report(self.home, Path(output))

"""Supply Ray Tune with the runs of an ablation, and record their outcomes."""

from collections.abc import Callable
from typing import Any

from ldarnet.ablation.display import AblationProgress
from ldarnet.ablation.folders import AblationFolders
from ldarnet.ablation.jobs import AblationJob, AblationJobs
from ldarnet.ablation.plan import AblationPlan, AblationRun, RunStatus
from ldarnet.errors import UserError


class AblationQueue:
    """Queue of the runs of an ablation; see `ldarnet.jobs.driver.TrialQueue`.

    Args:
        plan: plan to run.
        folders: folders of the ablation.
        make_job: builds the job of a run.
        display: progress display.
        on_arm_end: called when no run of an arm can start any more.

    Attributes:
        error: error that ends the ablation, such as a full disk.
    """

    def __init__(
        self,
        plan: AblationPlan,
        folders: AblationFolders,
        make_job: AblationJobs,
        display: AblationProgress,
        on_arm_end: Callable[[], None],
    ) -> None:
        self.plan, self.error = plan, None
        self._folders, self._make_job, self._display, self._on_arm_end = folders, make_job, display, on_arm_end
        self._runs: dict[str, AblationRun] = {}
        self.error: UserError | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Pickle no attributes. Ray saves the queue for `Tuner.restore`, which ablations do not use."""
        return {}

    @property
    def running(self) -> int:
        """Number of queued and running runs."""
        return self.plan.running

    def suggest(self, trial_id: str) -> AblationJob | None:
        """Return the job of the next run; None if no run can start now."""
        if self.error is not None or (run := self.plan.next()) is None:
            return None
        try:
            job = self._make_job(run, self.plan.arms[run.arm])
        except UserError as error:
            self.error = error
            return None
        self.plan.status(run).state = "queued"
        self._runs[trial_id] = run
        return job

    def started(self, trial_id: str) -> None:
        """Record the start of a run or of its retry."""
        run = self._runs[trial_id]
        self.plan.status(run).state = "running"
        self._display.run_started(run)
        self._write()

    def ended(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record that a run finished or had a user error."""
        run = self._runs[trial_id]
        status = self.plan.status(run)
        if result.get("outcome") == "finished":
            status.state = "finished"
            self._attempt(lambda: self._folders.read_loss(run, status))
        elif "reason" in result:
            status.state, status.reason, status.permanent = "failed", result["reason"], True
        else:  # stopped with the ablation
            return
        self._ended(run, status)

    def failed(self, trial_id: str, reason: str, retry: bool) -> None:
        """Record that a run failed, and whether Ray Tune retries it."""
        run = self._runs[trial_id]
        if retry:
            self._display.warn(f"{run}: {reason}; retrying")
            return
        status = self.plan.status(run)
        status.state, status.reason, status.permanent = "failed", reason, False
        self._ended(run, status)

    def _ended(self, run: AblationRun, status: RunStatus) -> None:
        loss = "" if status.loss is None else f" with loss {status.loss:.4f}"
        self._display.run_ended(run, f"finished{loss}" if status.state == "finished" else f"failed: {status.reason}")
        self._write()
        if self.plan.arms[run.arm].ended:
            try:
                self._on_arm_end()
            except Exception as error:  # must not end the training runs; written again at the end
                self._display.warn(f"report: {' '.join(str(error).split()) or type(error).__name__}")

    def _write(self) -> None:
        self._attempt(lambda: self._folders.write(self.plan))

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except UserError as error:
            self.error = error

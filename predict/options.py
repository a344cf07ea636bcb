"""Options of prediction: what may differ from the run, and when to stop a video early."""

from __future__ import annotations

from dataclasses import dataclass

from ..terminal.settings import check, documented, setting


@documented
@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """What `Predictor` and its methods take. None changes nothing."""

    pattern: str | None = setting(
        None, help="Another pattern than the run's; for runs of any pattern.", metavar="E:C"
    )
    clips: int | None = setting(None, help="Another number of clips.", metavar="N", least=1)
    device: str | None = setting(None, help="cpu, cuda:0, …; the first GPU, or the CPU, by default.")
    exit_probability: float | None = setting(
        None,
        help="Leave a video when a class is this probable, for example 0.95.",
        flag="--exit",
        metavar="P",
        above=0,
        most=1,
    )
    budget_gflops: float | None = setting(
        None, help="Leave a video before the clip that would exceed this cost.", metavar="X", above=0
    )

    def __post_init__(self) -> None:
        check(self)

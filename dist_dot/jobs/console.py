"""What a run shows in a terminal."""

from time import perf_counter

from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from dist_dot.jobs.model import Model
from dist_dot.jobs.predict import Predicted
from dist_dot.jobs.run import Report
from dist_dot.jobs.words import shown
from dist_dot.rounds.remote import RunSummary
from dist_dot.training.fit import Progress, Status

COEFFICIENTS = 8
EVERY = 5.0  # seconds between lines where there is no terminal to write over


def plain(words: object, style: str = "") -> Text:
    """Return words that may hold any name: rich takes a str for markup, and [/x] for a mistake in it."""
    return Text(shown(words), style)


class ProgressLine:
    """A line that follows the run: written over in a terminal, repeated every few seconds elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = Live(console=console, refresh_per_second=8, transient=False) if console.is_terminal else None
        self.first: Progress | None = None
        self.last = float("-inf")

    def __enter__(self) -> "ProgressLine":
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.live:
            self.live.stop()

    def __call__(self, progress: Progress) -> bool:
        """Show the progress, and let the run go on."""
        self.first = self.first or progress
        line = self._line(progress)
        if self.live:
            self.live.update(line)
        elif perf_counter() - self.last > EVERY:
            self.last = perf_counter()
            self.console.print(line)
        return False

    def say(self, words: str) -> None:
        """Print words above the line."""
        self.console.print(plain(words), soft_wrap=True)

    def ask(self, question: str, letters: str) -> str:
        """Ask for one of some letters, with the line out of the way."""
        self.__exit__()
        try:
            while True:
                answer = self.console.input(f"{question} \\[{'/'.join(letters)}] ").strip().lower()[:1]
                if answer and answer in letters:
                    return answer
        finally:
            self.__enter__()

    def _line(self, progress: Progress) -> Text:
        first = self.first or progress
        rounds, seconds = progress.rounds - first.rounds, progress.seconds - first.seconds
        rate = f"{rounds * progress.nbytes / seconds / 1e9:.1f} GB/s" if seconds > 0 else ""
        held = "" if progress.validation is None else f"held out {progress.validation:.6g}   "
        return Text(
            f"round {progress.rounds:6d}   loss {progress.value:.9g}   {held}"
            f"gradient {progress.relative:.2e} of the best constant's   {rate}"
        )


class RowsDone:
    """A bar of the rows that are done, in a terminal."""

    def __init__(self, console: Console) -> None:
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Bar(*columns, console=console, transient=True, disable=not console.is_terminal)
        self.task = self.bar.add_task("rows", total=None)

    def __enter__(self) -> "RowsDone":
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def __call__(self, done: int, rows: int) -> None:
        """Show how far it is."""
        self.bar.update(self.task, completed=done, total=rows)


def show_predicted(console: Console, model: Model, done: Predicted, out: str) -> None:
    """Print what was written, and warnings: of a model that is not finished, of categories that it does not know."""
    console.print(plain(f"{done.rows:,} predictions of {model.target}: {out}"), soft_wrap=True)
    words = [] if model.finished else [f"the run of this model has ended as {model.status.lower()}"]
    for name, count in done.unseen.items():
        words.append(f"{name} has values that the model has not seen, which count as none, in {count:,} of the rows")
    for each in words:
        console.print(plain(f"warning: {each}", "yellow"), soft_wrap=True)


def show_runs(console: Console, runs: list[RunSummary]) -> None:
    """Print the runs of a scheduler: of each a line of figures, and one of what it is, for it may be long."""
    if not runs:
        console.print("no runs")
        return
    console.print(plain(_figures("run", "state", "started (UTC)", "rounds", "F", "gradient"), "bold"), soft_wrap=True)
    for run in runs:
        at = run.progress
        figures = () if at is None else (f"{at.rounds:,}", f"{at.value:.6g}", f"{at.relative:.1e}")
        console.print(plain(_figures(run.run, run.state, run.started[5:16], *figures)), soft_wrap=True)
        console.print(plain(f"  {run.label}"), soft_wrap=True)


def _figures(run: str, state: str, started: str, rounds: str = "", value: str = "", gradient: str = "") -> str:
    return f"{run:12}  {state:7}  {started:13}  {rounds:>9}  {value:>12}  {gradient:>8}".rstrip()


def _intercept(intercept: float | dict[str, float]) -> str:
    if isinstance(intercept, float):
        return f"{intercept:+.6g}"
    shown = [f"{name} {value:+.6g}" for name, value in list(intercept.items())[:COEFFICIENTS]]
    return ", ".join([*shown, "..."] if len(intercept) > len(shown) else shown)


def show_report(console: Console, report: Report, folder: str) -> None:
    """Print the report as a table, and where the model is."""
    table = Table(box=box.SIMPLE_HEAD, show_header=False)
    table.title = plain(f"{report.target}: {report.status.name.lower()}", "table.title")
    table.add_column(justify="left", style="bold")
    table.add_column(justify="left")
    held = "none held out" if report.score_held_out is None else f"{report.score_held_out:.6f} held out"
    recovery = report.recovery
    rows: list[tuple[str, str] | None] = [
        ("rows x features", f"{report.rows:,} x {report.features} in {report.blocks} blocks, {report.where}"),
        ("loss", f"{report.loss:.10g}"),
        (report.score, f"{report.score_train:.6f} train, {held} ({report.rows_held_out:,} rows)"),
        ("solver", report.solver),
        ("rounds", f"{report.rounds:,} in {report.seconds:.1f} s"),
        ("time per round", f"{1e3 * report.seconds_per_round:.2f} ms") if report.seconds_per_round else None,
        ("read", f"{report.bytes_per_second / 1e9:.1f} GB/s") if report.bytes_per_second else None,
        ("workers lost", f"{recovery.lost}, {recovery.repeated} rounds repeated, {recovery.seconds:.1f} s")
        if recovery.lost
        else None,
        ("intercept", _intercept(report.intercept)),
    ]
    for name, value in filter(None, rows):
        table.add_row(name, plain(value))
    for name, coefficient in list(report.coefficients.items())[:COEFFICIENTS]:
        table.add_row(plain(name), f"{coefficient:+.6g}")
    console.print(table)
    if report.status is not Status.CONVERGED:
        console.print(plain(f"warning: {report.status.value}", "yellow"), soft_wrap=True)
    console.print(plain(f"model: {folder}"), soft_wrap=True)

"""`faster <verb>`: the commands. A command's module is imported only when the command is named."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .errors import FasterError, StorageError, one_line
from .runtime.spawning import loaded_shadows
from .terminal.help import HelpfulGroup
from .terminal.streams import READER_LEFT, give_up, reader_left, settle

if TYPE_CHECKING:
    from .store.maintain.remake import Makers

# Verb → module and name of its click command, and its line in the list of commands. The list is shown without
# importing the modules. A command's module imports nothing heavy.
COMMANDS = {
    "extract": ("extract.commands", "extract_command", "Write every clip's feature maps into a store."),
    "submit": (
        "extract.jobs.commands",
        "submit_group",
        "Hand an extraction to a cluster's batch system.",
    ),
    "status": (
        "extract.jobs.commands",
        "status_command",
        "How far an extraction is, and what to run again.",
    ),
    "train-backbone": (
        "extract.train_backbone.commands",
        "train_backbone_command",
        "Train a backbone on the same sources.",
    ),
    "train-agg": ("aggregate.commands", "train_agg_command", "Train an aggregator on a store's maps."),
    "evaluate": ("aggregate.commands", "evaluate_command", "A trained run's figures on a part of a split."),
    "sweep": (
        "aggregate.sweep.commands",
        "sweep_command",
        "Train and report a whole grid of aggregators, patterns, clips and seeds.",
    ),
    "report": ("aggregate.sweep.commands", "report_command", "One HTML page about runs and sweeps."),
    "oracle": (
        "aggregate.sweep.commands",
        "oracle_command",
        "What choosing the expensive clips in hindsight would gain.",
    ),
    "predict": ("predict.commands", "predict_command", "Classify raw videos with a trained run."),
    "export-model": (
        "predict.commands",
        "export_model_command",
        "Write a run's aggregator as torch.export programs.",
    ),
    "flops": (
        "costs.commands",
        "flops_command",
        "GFLOPs of a clip, of a video, or of the paper's tables.",
    ),
    "inspect": ("store.commands", "inspect_command", "What a store holds, its coverage and failures."),
    "convert": (
        "store.commands",
        "convert_command",
        "A store's maps in a smaller encoding, as a new store.",
    ),
    "verify": ("store.commands", "verify_command", "Read every byte of a store against its receipts."),
    "export": ("exchange.commands", "export_command", "Write a store's maps as HDF5 or .npy files."),
    "import": (
        "exchange.commands",
        "import_command",
        "Put features that others extracted into a store.",
    ),
    "models": ("costs.commands", "models_command", "What --model and --aggregator can name."),
    "demo": (
        "demo.commands",
        "demo_command",
        "The whole pipeline on videos that it renders, in minutes.",
    ),
}


class LazyGroup(HelpfulGroup):
    """A group that imports a command's module when the command is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs, in the order of the work."""
        return list(COMMANDS)

    def summary(self, ctx: click.Context, name: str) -> str:
        """Return the verb's line in the list of commands."""
        return COMMANDS[name][2]

    def find(self, name: str) -> click.Command | None:
        """Import the verb's command. None if there is no such verb."""
        if name not in COMMANDS:
            return None
        module, attribute, summary = COMMANDS[name]
        command = getattr(importlib.import_module(f".{module}", __package__), attribute)
        assert isinstance(command, click.Command)
        command.short_help = summary
        return command

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Make the context as click does; help is printed here."""
        with _pipes():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command as click does."""
        with _pipes():
            return super().invoke(ctx)


class _ReaderLeft(Exception):
    """The reader of the command's output closed it."""


@contextmanager
def _pipes() -> Iterator[None]:
    """Tell a closed reader of our output from a broken pipe inside.

    Click would leave with exit code 1, silently, for both.
    """
    try:
        yield
    except BrokenPipeError as error:
        if reader_left():
            raise _ReaderLeft from None
        raise StorageError(
            f"a helper process or a connection went away ({error.strerror or error}); what is whole is kept, "
            "run the same command again"
        ) from error


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="faster")
@click.pass_context
def group(context: click.Context) -> None:
    """FASTER video classification from a feature cache.

    Extract every clip's cheap and expensive feature maps once; then try every mixture of the two in minutes.

    \b
    Example, in a folder that holds videos/ and weights/:
        faster extract --model r2plus1d50 --model r2d26
        faster train-agg --store kinetics.zarr
    """
    context.obj = makers  # for `verify`, whose layer is below those that make maps


def makers() -> Makers:
    """Return the functions that name the commands to make a store's maps again, per stage."""
    from .exchange.import_features import importing_command
    from .extract.remake import extract_commands
    from .store.maintain.remake import Makers

    return Makers(extract=extract_commands, import_=importing_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. A user's mistake ends as one line and an exit code (see `faster.errors`)."""
    settle()
    try:
        code = _ended(arguments)
        sys.stdout.flush()
    except (_ReaderLeft, BrokenPipeError):
        code = READER_LEFT  # not our error, and nothing more can be printed to it
    except OSError as error:
        code = _failed(error)
    give_up()
    sys.exit(code)


def _ended(arguments: Sequence[str] | None) -> int:
    """Run the command and return its exit code. Errors are printed on stderr."""
    try:
        code = group.main(
            args=None if arguments is None else list(arguments), prog_name="faster", standalone_mode=False
        )
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        said = str(error.__cause__ or error)  # click wraps the interrupt; its cause may say where it stopped
        click.echo(f"faster: {said or 'stopped by Ctrl-C; what is whole is kept'}", err=True)
        return 130
    except FasterError as error:
        click.echo(f"faster: {error}", err=True)
        return error.exit_code
    except OSError as error:
        return _failed(error)
    except (AttributeError, ImportError, TypeError):
        if (shadows := loaded_shadows()) is None:
            raise
        click.echo(f"faster: {shadows}", err=True)
        return 2
    return code if isinstance(code, int) else 0


def _failed(error: OSError) -> int:
    where = f"{error.filename}: " if error.filename else ""
    with suppress(OSError):
        click.echo(f"faster: {one_line(f'{where}{error.strerror or error}')}", err=True)
    return 74


if __name__ == "__main__":
    main()

"""`faster <verb>`: the commands, each registered by its own stage and imported only when it is named."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from . import __version__
from .errors import FasterError, one_line

# verb → module and name of its click command. A command's module imports nothing heavy.
COMMANDS = {
    "extract": ("extract.commands", "extract_command"),
    "submit": ("extract.jobs.commands", "submit_group"),
    "status": ("extract.jobs.commands", "status_command"),
    "train-backbone": ("extract.stage_one.commands", "train_backbone_command"),
    "train-agg": ("aggregate.commands", "train_agg_command"),
    "evaluate": ("aggregate.commands", "evaluate_command"),
    "sweep": ("aggregate.sweep_commands", "sweep_command"),
    "report": ("aggregate.sweep_commands", "report_command"),
    "oracle": ("aggregate.sweep_commands", "oracle_command"),
    "predict": ("predict_commands", "predict_command"),
    "export-model": ("predict_commands", "export_model_command"),
    "flops": ("costs_commands", "flops_command"),
    "inspect": ("store.commands", "inspect_command"),
    "convert": ("store.commands", "convert_command"),
    "verify": ("store.commands", "verify_command"),
    "export": ("exchange.commands", "export_command"),
    "import": ("exchange.commands", "import_command"),
    "models": ("costs_commands", "models_command"),
    "demo": ("demo.commands", "demo_command"),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of the work."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the verb's command, or None where there is no such verb."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(f".{module}", __package__), name)
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="faster")
def group() -> None:
    """FASTER video classification from a feature cache.

    Extract every clip's cheap and expensive feature maps once; then try every mixture of the two in minutes.

    \b
    Example, in a folder that holds videos/ and weights/:
        faster extract --model r2plus1d50 --model r2d26
        faster train-agg --store kinetics.zarr
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; a user's mistake ends as one line and its exit code (see `faster.errors`)."""
    try:
        code = group.main(
            args=None if arguments is None else list(arguments), prog_name="faster", standalone_mode=False
        )
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        said = str(error.__cause__ or error)  # click wraps the interrupt; what stopped may have said where
        click.echo(f"faster: {said or 'stopped by Ctrl-C; what is whole is kept'}", err=True)
        sys.exit(130)
    except FasterError as error:
        click.echo(f"faster: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output went away: not an error of ours, and nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"faster: {one_line(f'{where}{error.strerror or error}')}", err=True)
        sys.exit(74)
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()

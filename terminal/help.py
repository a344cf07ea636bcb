"""Command groups that help whoever mistypes: whole lines in the list of commands, and "did you mean" for what is unknown."""

from __future__ import annotations

import click

from .suggest import did_you_mean


class HelpfulGroup(click.Group):
    """A group whose list of commands is never cut, and which names the nearest command, option value or word.

    All options of a command are seen to here, when the command is looked up.
    """

    def summary(self, ctx: click.Context, name: str) -> str:
        """A command's line in the list: its short help, else the first sentence of its help, whole."""
        command = self.get_command(ctx, name)
        return "" if command is None else command.get_short_help_str(limit=10_000)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, every summary whole, on as many lines as it takes."""
        rows = [(name, self.summary(ctx, name)) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, whose options refuse bad values in one form."""
        from .options import with_own_errors  # here: a list of commands does without

        command = self.find(cmd_name)
        return None if command is None else with_own_errors(command)

    def find(self, name: str) -> click.Command | None:
        """The command of this name as it was made, None where there is none."""
        return self.commands.get(name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with the nearest command where there is none of the name."""
        name = args[0]
        if not ctx.resilient_parsing and not name.startswith("-") and self.get_command(ctx, name) is None:
            hint = did_you_mean(name, self.list_commands(ctx), most=2)
            ctx.fail(f"No such command {name!r}{hint or '.'}")
        return super().resolve_command(ctx, args)

"""Command groups with complete summaries, and with "did you mean" for unknown names."""

from __future__ import annotations

import click

from .suggest import did_you_mean


class HelpfulGroup(click.Group):
    """A group that never truncates its list of commands, and suggests the nearest command, option or value.

    It prepares all options of a command when the command is looked up.
    """

    def summary(self, ctx: click.Context, name: str) -> str:
        """Return a command's line in the list: its short help, or the complete first sentence of its help."""
        command = self.get_command(ctx, name)
        return "" if command is None else command.get_short_help_str(limit=10_000)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands with complete summaries, on several lines if necessary."""
        rows = [(name, self.summary(ctx, name)) for name in self.list_commands(ctx)]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of this name; all its options report bad values in the same form."""
        from .options import with_own_errors  # imported here, because a list of commands does not need it

        command = self.find(cmd_name)
        return None if command is None else with_own_errors(command)

    def find(self, name: str) -> click.Command | None:
        """Return the unprepared command of this name, or None."""
        return self.commands.get(name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a command as click does, but suggest the nearest one if it does not exist."""
        name = args[0]
        if not ctx.resilient_parsing and not name.startswith("-") and self.get_command(ctx, name) is None:
            hint = did_you_mean(name, self.list_commands(ctx), most=2)
            ctx.fail(f"No such command {name!r}{hint or '.'}")
        return super().resolve_command(ctx, args)

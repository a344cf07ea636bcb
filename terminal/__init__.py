"""Terminal services for all commands: streams, help, suggestions, options, output paths."""

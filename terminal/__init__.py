"""What every command needs of the terminal: streams, help, suggestions, places to write."""

"""The command line: arguments, commands, a client of the API, rendering. Imports ``app`` and lower."""

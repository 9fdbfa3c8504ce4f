"""The `qllava` command: flags to library calls to rich output, no logic."""

"""The subcommands of `mrcnn`, one module each."""

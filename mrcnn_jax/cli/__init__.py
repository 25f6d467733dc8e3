"""The subcommands of `mrcnn`, a module each."""

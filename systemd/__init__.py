"""The units that ship with the package; see peersync.cli.unit_files."""

"""The configuration: file, environment and flags, merged once into frozen values."""

"""Named models, one TOML file each."""

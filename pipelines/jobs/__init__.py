"""The stages, one file each: thin wiring of Ray around what the other modules do."""

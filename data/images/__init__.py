"""Pictures as files: reading, writing, listing, checking."""

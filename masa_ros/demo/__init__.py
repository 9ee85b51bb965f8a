"""Everything at work on a generated recording with exact truth."""

"""What a fit says: tables, prediction, comparison."""
